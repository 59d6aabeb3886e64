"""One model's quantizations side by side: what each takes, how fast it is, how true, and what it solves.

Pure. Speeds are of one run, under its main condition; that variants are of one model is told as in `cliff.py`, by their
names. From the most bits to the fewest, so that the cliff is where a column falls.
"""

from __future__ import annotations

import msgspec

from localfoundry.bench.wording import NONE, number
from localfoundry.compare.cliff import family_of
from localfoundry.compare.evidence import Evidence, Figures
from localfoundry.compare.faithful import Faithful, figure, percent
from localfoundry.compare.verdict import main_condition
from localfoundry.fit.shape import bits_per_parameter
from localfoundry.results.rows import CandidateRow
from localfoundry.units import format_bytes


class Quantized(msgspec.Struct, frozen=True):
    """One quantization. What is None was not measured; `solved` and `asked` are items of all suites together."""

    family: str
    label: str
    quantization: str
    bits: float
    size_bytes: int | None
    speed: Figures | None
    fidelity: Faithful | None
    solved: int
    asked: int


def quantized(evidence: Evidence) -> list[Quantized]:
    """Those of models of which there are several, by model and then from the most bits to the fewest."""
    speeds: dict[str, Figures] = {}
    for panel in reversed(evidence.panels):
        condition = main_condition(panel)
        speeds |= {f.label: f for f in panel.under(condition) if f.measured} if condition else {}
    every = [_one(label, row, evidence, speeds.get(label)) for label, row in evidence.rows.items()]
    found = [one for one in every if one is not None]
    kinds: dict[str, set[str]] = {}
    for one in found:
        kinds.setdefault(one.family, set()).add(one.quantization)
    return sorted((one for one in found if len(kinds[one.family]) > 1), key=lambda one: (one.family, -one.bits))


def _one(label: str, row: CandidateRow, evidence: Evidence, speed: Figures | None) -> Quantized | None:
    bits = bits_per_parameter(row.quantization)
    if row.quantization is None or bits is None:
        return None
    scores = [s for s in evidence.scores if s.model == label]
    return Quantized(
        family_of(row), label, row.quantization, bits, evidence.sizes.get(label), speed, evidence.fidelity.get(label),
        sum(s.passed for s in scores), sum(s.n for s in scores),
    )  # fmt: skip


def cells(evidence: Evidence) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the table."""
    columns = ("Quantization", "Model", "Bits", "File", "Memory", "TTFT ms", "Decode tok/s", "Answer s", "KL at least",
               "Top-1", "Perplexity", "Solved")  # fmt: skip
    return columns, [_row(one) for one in quantized(evidence)]


def _row(one: Quantized) -> tuple[str, ...]:
    speed, found = one.speed, one.fidelity.fidelity if one.fidelity else None
    peak = speed.peak_bytes if speed else None
    return (
        one.quantization, one.label, f"{one.bits:.1f}", format_bytes(one.size_bytes) if one.size_bytes else NONE,
        format_bytes(peak) if peak else NONE, _median(speed, "ttft_s", 1000), _median(speed, "decode_tps"),
        _median(speed, "latency_s"), figure(found.kl, "{:.4f}") if found else NONE,
        figure(found.top1, "{:.1%}") if found else NONE,
        percent(found.perplexity) if found and found.perplexity else NONE,
        f"{one.solved} of {one.asked}" if one.asked else NONE,
    )  # fmt: skip


def _median(speed: Figures | None, metric: str, scale: float = 1) -> str:
    summary = speed.metrics.get(metric) if speed is not None else None
    return NONE if summary is None else number(summary.median * scale)


def sentences(evidence: Evidence) -> list[str]:
    """Of each model the quantizations that are shown to be worse in perplexity than the bound."""
    found = []
    families: dict[str, list[Quantized]] = {}
    for one in quantized(evidence):
        if one.fidelity is not None and one.fidelity.fidelity.perplexity is not None:
            families.setdefault(one.family, []).append(one)
    for family, steps in families.items():
        worse = [one for one in steps if one.fidelity is not None and one.fidelity.worse]
        fine = ", ".join(one.quantization for one in steps if one not in worse)
        if not worse:
            found.append(f"{family}: of none ({fine}) it is shown that its perplexity is worse by more than 1 %.")
            continue
        listed = "; ".join(f"{one.quantization} {_perplexity(one)}" for one in worse)
        rest = f"; of {fine} that is not shown" if fine else ""
        found.append(f"{family}: shown to be worse in perplexity by more than 1 %: {listed}{rest}.")
    return found


def _perplexity(one: Quantized) -> str:
    ratio = one.fidelity.fidelity.perplexity if one.fidelity else None
    return percent(ratio) if ratio else ""
