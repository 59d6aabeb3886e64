"""The comparison of the course as text: a line a model with a speed word and what it is good for, and a recommendation.

Each sentence of the recommendation says what it rests on. Trade-off: the speed words (Fast, Medium, Slower) rank what
was measured together on this machine and mean nothing next to another run's.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence

from localfoundry.bench import figures
from localfoundry.bench.figures import Cell
from localfoundry.bench.outcome import Measurement
from localfoundry.bench.wording import about, number, range_of

# Absolute classes, used where only one model was measured and there is nothing to be faster than. Seconds for a whole
# answer; chosen so that the tutorial's 2, 3 and 5 seconds get the words that it gives them.
_FAST_S = 2.5
_MEDIUM_S = 4.0


def comparison_block(result: Measurement, descriptions: Mapping[str, str] | None = None) -> str:
    """The block of one measurement; of several conditions it is the first one's, which is then named.

    A model that failed on the way is neither ranked nor recommended, however fast it was until then.
    `descriptions` is keyed by label or model and holds what stands in the line as it is: "good for general chat".
    """
    every = figures.cells(result.plan, result.outcomes)
    first = every[0].condition
    shown = [cell for cell in every if cell.condition == first]
    described = _described(shown, descriptions or {})
    measured = [cell for cell in shown if cell.good and not cell.error]
    words = speed_words(measured)
    labels = [cell.label for cell in shown]
    width = max(18, *(len(label) + 1 for label in labels))
    lines = ["Model Comparison Results:", "=" * 24]
    for cell in shown:
        label = cell.label
        text = f"failed: {cell.error}" if cell.error else "not measured"
        if label in words:
            text = f"{words[label]} (~{about(_latency(cell))}s)"
            text += f", {described[label]}" if label in described else ""
        lines.append(f"{label + ':':<{width}} {text}")
    advice = " ".join(_recommendation(measured, described)) if measured else "none: no model was measured to the end."
    if len(result.plan.conditions()) > 1:
        advice = f"of {first.scenario} ({first.language}, {first.load}) alone. {advice}"
    return "\n".join([*lines, "", *textwrap.wrap(f"Recommendation: {advice}", 79, break_on_hyphens=False)])


def _described(cells: Sequence[Cell], descriptions: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for candidate in (cell.candidate for cell in cells):
        text = descriptions.get(candidate.label) or descriptions.get(candidate.model)
        if text:
            found[candidate.label] = text
    return found


def speed_words(measured: Sequence[Cell]) -> dict[str, str]:
    """Fast, Medium or Slower by the median time of a whole answer.

    Several: the span from fastest to slowest is cut in three equal parts on a logarithmic scale, as ratios are what a
    person feels; who cannot be told from the fastest shares its word. One alone: the absolute classes above.
    """
    if len(measured) == 1:
        latency = _latency(measured[0])
        return {measured[0].candidate.label: _word(latency, _FAST_S, _MEDIUM_S)}
    words = {}
    if measured:
        fastest, slowest = min(measured, key=_latency), max(measured, key=_latency)
        third = (_latency(slowest) / _latency(fastest)) ** (1 / 3)
        for cell in measured:
            ratio = figures.ratio(cell, fastest)
            same = cell is fastest or (ratio is not None and ratio.verdict == "no difference shown")
            limit = _latency(fastest) * third
            words[cell.candidate.label] = "Fast" if same else _word(_latency(cell), limit, limit * third)
    return words


def _word(latency_s: float, fast_s: float, medium_s: float) -> str:
    if latency_s <= fast_s:
        return "Fast"
    return "Medium" if latency_s <= medium_s else "Slower"


def _recommendation(measured: Sequence[Cell], described: Mapping[str, str]) -> list[str]:
    """Sentences, each with what it rests on."""
    fastest = min(measured, key=_latency)
    name = fastest.candidate.label
    latency = figures.metrics(fastest)["latency_s"]
    evidence = f"median {number(latency.median)} s for an answer{range_of(latency.median_interval, ' s')}"
    rounds = f"{latency.n} round{'s' if latency.n > 1 else ''}"
    if len(measured) == 1:
        said = [f"{name} alone was measured: {evidence}, {rounds}. Measure a second model to compare."]
        return [*said, "Quality was not measured here."]
    said = [f"Start with {name} for development: the shortest of the {len(measured)} measured ({evidence}, {rounds})."]
    for cell in measured:
        if cell is not fastest:
            said.append(_against(cell, fastest))
    lengths = sorted({s.completion_tokens for o in measured for s in o.good if s.completion_tokens is not None})
    if len(lengths) > 1:
        said.append(f"Answers had {lengths[0]} to {lengths[-1]} tokens, which their times include.")
    thinkers = [o.candidate.label for o in measured if "reason" in described.get(o.candidate.label, "").lower()]
    if thinkers and name not in thinkers:
        said.append(f"Try {thinkers[0]} for production reasoning tasks: that is its description, not a measurement.")
    return [*said, "Quality was not measured here: compare the answers before you choose."]


def _against(other: Cell, fastest: Cell) -> str:
    label, name = other.candidate.label, fastest.candidate.label
    ratio = figures.ratio(other, fastest)
    if ratio is None or ratio.verdict == "not enough runs":
        return f"{label} against {name}: not enough rounds to tell."
    said = f"ratio {ratio.value:.2f}{range_of(ratio.interval)}"
    if ratio.verdict == "no difference shown":
        return f"{label} against {name}: no difference shown ({said})."
    if ratio.verdict == "too noisy to conclude":
        return f"{label} against {name}: too noisy to conclude ({said}, CV {ratio.cv or 0:.0%})."
    return f"{label} takes {ratio.value:.2f} times as long{range_of(ratio.interval)}."


def _latency(cell: Cell) -> float:
    return statistics.median(sample.latency_s for sample in cell.good)
