"""What the estimator expected of a model beside what a bench measured, and the note that corrects it next time.

Only what one stream did through the engine's own clock is compared: tokens a second of the prompt that was not cached,
and of the answer. Runs too noisy to conclude teach nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from localfoundry import fit
from localfoundry.bench import stats
from localfoundry.bench.others import DISTURBED
from localfoundry.bench.outcome import Outcome
from localfoundry.bench.request import Sample
from localfoundry.fit.calibration import Calibration, Quantity, Subject, note_speed
from localfoundry.fit.interval import Interval
from localfoundry.formats.shape import ModelShape

LEAST_PROMPT = 16  # tokens: the rate of a shorter prompt is that of its first steps
_QUANTITIES: tuple[Quantity, ...] = ("decode", "prefill")


class Expected(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens a second: `predicted` with its interval as the estimate was before this bench, and what was measured.

    `source` is the estimate's: predicted, measured here (before), or measured by others. `kept`: it corrects the next.
    """

    label: str
    quantity: Quantity
    predicted: float
    low: float
    high: float
    source: str
    measured: float
    kept: bool
    others: float = 0.0  # share of the processor that other programs had


def compared(
    outcome: Outcome, shape: ModelShape, load: fit.Load, processor: fit.Processor, subject: Subject, path: Path,
    others: float = 0.0,
) -> list[Expected]:  # fmt: skip
    """Both rates of one candidate, and their notes in the calibration at `path`. Blocking for a moment.

    `others`: the share of the processor that other programs had; what they disturbed is not kept.
    """
    calibration = Calibration(path)
    found = []
    for quantity in _QUANTITIES:
        alone = [sample for sample in outcome.good if sample.load == "c=1"]
        told = [_pair(quantity, sample, shape, load, processor) for sample in alone]
        pairs = [pair for pair in told if pair is not None]
        measured = stats.summarize([rate for _, rate in pairs])
        if measured is None:
            continue
        predicted = sorted((interval for interval, _ in pairs), key=lambda one: one.value)[len(pairs) // 2]
        before = calibration.corrected(quantity, predicted, subject)
        kept = not measured.too_noisy and others <= DISTURBED
        if kept:
            note_speed(calibration, subject, quantity, predicted.value, measured.median)
        found.append(Expected(outcome.candidate.label, quantity, before.value, before.low, before.high, before.source,
                              measured.median, kept, round(others, 3)))  # fmt: skip
    return found


def words(one: Expected) -> str:
    """A line: what was expected and by what right, and what came."""
    expected = f"{one.predicted:.1f} tok/s ({one.low:.1f} to {one.high:.1f}, {one.source})"
    kept = "kept for the next estimate" if one.kept else "too noisy to conclude, not kept"
    if one.others > DISTURBED:
        kept = f"other programs had {one.others:.0%} of the processor, not kept"
    return f"{one.label}: {one.quantity} expected {expected}, measured here {one.measured:.1f} ({kept})"


def _pair(
    quantity: Quantity, sample: Sample, shape: ModelShape, load: fit.Load, processor: fit.Processor
) -> tuple[Interval, float] | None:
    """The prediction for what this sample was asked, and its rate; None where the server did not tell enough."""
    if sample.prompt_tokens is None:
        return None
    if quantity == "decode":
        rate, depth = sample.engine_decode_tps or sample.decode_tps, sample.prompt_tokens
        depth += (sample.completion_tokens or 0) // 2
        return (fit.decode(shape, load, processor, depth).interval, rate) if rate else None
    read = sample.prompt_tokens - (sample.cached_tokens or 0)
    rate = sample.engine_prefill_tps or sample.prefill_tps
    return (fit.prefill(shape, load, processor, read).interval, rate) if rate and read >= LEAST_PROMPT else None
