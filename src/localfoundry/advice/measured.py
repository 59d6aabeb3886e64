"""What was measured of variants, for a recommendation: shares of a suite's items solved, and decode rates.

From the results of this home and from those of others that were merged into it; never added up. Quality does not
depend on the machine. A speed of another kind of machine says nothing here, and one with outliers nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from localfoundry.advice.quality import Evidence
from localfoundry.catalog.model import Variant
from localfoundry.fit.interval import Interval
from localfoundry.results.evidence import Known, Speed

_SCENARIO, _LOAD = "chat", "c=1"  # short prompts, one reader: what a decode rate is told for


class Measured:
    """Evidence looked up by variant; most of a large catalog has none, and costs a look into a set."""

    def __init__(self, known: Known) -> None:
        self._known = known
        candidates = [c for runs in (known.here, known.others) for run in runs for c in run.candidates]
        self._hashes = {c.file_sha256 for c in candidates if c.file_sha256}
        self._ids = {c.model_id for c in candidates if c.model_id}

    def quality(self, alias: str, variant: Variant, task: str, suite: str) -> list[Evidence]:
        """Scores of the variant in `suite`, as evidence for `task`: for each language, content of the suite, source."""
        if not self._has(variant):
            return []
        found = self._known.of(file_sha256=variant.sha256, model_id=variant.id, task=suite).accuracy
        return [
            Evidence(
                alias=alias, variant=variant.id, task=task, source=a.source, score=a.share.value, low=a.share.low,
                high=a.share.high, n=a.share.n, suite=a.task, language=a.language, content=a.suite_sha256,
                engine=a.engine,
            )
            for a in found
        ]  # fmt: skip

    def decode(self, variant: Variant, machine: str, engine: str | None = None) -> Interval | None:
        """As `decode_of`."""
        if not self._has(variant):
            return None
        return decode_of(self._known.of(file_sha256=variant.sha256, model_id=variant.id).speeds, machine, engine)

    def _has(self, variant: Variant) -> bool:
        return variant.sha256 in self._hashes or variant.id in self._ids


def decode_of(speeds: Iterable[Speed], machine: str, engine: str | None) -> Interval | None:
    """Tokens/s on this kind of machine, median with its 95 % interval: of the latest run, here before others.

    `engine`: only what was measured in this one, whatever its build, or in one that was not told; None: in any.
    """
    found = [(s.source == "measured here", s.started_at, s.run, rate, s.source)
             for s in speeds
             if _is_by(s.engine, engine) and (rate := _rate(s, machine)) is not None]  # fmt: skip
    if not found:
        return None
    *_, (value, low, high), source = max(found)
    return Interval(value, low, high, source)


def _is_by(told: str | None, engine: str | None) -> bool:
    return engine is None or told is None or told.partition(" ")[0] == engine


def _rate(speed: Speed, machine: str) -> tuple[float, float, float] | None:
    """Median, low and high in tokens/s; None for another machine or work, an outlier, or too few values."""
    where = speed.scenario, speed.load, speed.metric, speed.machine
    if where != (_SCENARIO, _LOAD, "itl_s", machine) or speed.outlier or not speed.low or not speed.high:
        return None
    return 1 / speed.median, 1 / speed.high, 1 / speed.low
