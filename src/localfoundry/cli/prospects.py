"""Fit and speed of listed models on this machine: looked up, put in order, said in words and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from localfoundry import instance
from localfoundry.advice.glance import Fit, Glance, Glances, InAnother
from localfoundry.advice.machine import Means, of_this
from localfoundry.advice.prospects import in_full
from localfoundry.cli import output
from localfoundry.config import Settings, profiles
from localfoundry.engines import llama_fit
from localfoundry.engines.other_fit import KNOWN
from localfoundry.errors import InvalidSetting
from localfoundry.fit.calibration import Calibration
from localfoundry.fit.interval import Interval
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.cli.models import Row
    from localfoundry.formats.shape import ModelShape
    from localfoundry.store.manifest import Manifest

COLUMNS = ("Context", "Memory", "Fits", "Tokens/s")
Order = Literal["speed", "size", "memory", "name"]
_FITS: dict[Fit, str] = {"fits": "yes", "not now": "not now", "never": "no", "unknown": "unknown"}
_LEFT_OUT: dict[Fit, str] = {"never": "do not fit", "not now": "would if other programs gave memory back",
                             "unknown": "cannot be told"}  # fmt: skip


def here(given: Settings) -> Means:
    """This machine as of now. Blocks for 0.3 s the first time, while the bandwidth of the memory is measured."""
    from localfoundry.hardware.survey import Probe, survey

    machine = survey(given.home, Probe.NEVER)
    if machine.bandwidth is None:
        machine = survey(given.home, Probe.ONCE)
    return of_this(machine, given, _held(given))


def _held(given: Settings) -> int:
    """Bytes of this service's models, which give way to a load."""
    state = instance.running(given)
    if state is None:
        return 0
    import psutil

    from localfoundry.service.memory import private_bytes

    try:
        workers = psutil.Process(state.pid).children()
    except psutil.Error:
        return 0
    return sum(private_bytes(worker.pid) or 0 for worker in workers)


def in_another(given: Settings, manifests: Iterable[Manifest]) -> dict[str, InAnother]:
    """By id the versions here that another engine than llama.cpp would run.

    Of a GGUF file that is only asked where a setting, or something tuned, speaks for another one: a list must not read
    every header.
    """
    try:
        tuned = any(profile.engine in KNOWN for profile in profiles.read(given.home))
    except InvalidSetting:
        tuned = False  # a damaged file of profiles holds none
    asked = [m for m in manifests if m.format in KNOWN or (m.format == "gguf" and (tuned or _elsewhere(given, m)))]
    if not asked:
        return {}
    from localfoundry.cli import engine_fit

    return engine_fit.others(given, asked)


def _elsewhere(given: Settings, manifest: Manifest) -> bool:
    chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
    wanted = chosen.engine or given.engine
    return wanted not in ("auto", "llama.cpp") or "throughput" in (chosen.profile, given.profile)


class Outlook:
    """What is said of each row of a list, for one machine and one wish for the context."""

    def __init__(self, given: Settings, context: int | None, here_now: Iterable[Manifest] = ()) -> None:
        """`here_now`: the versions on this disk, of which some may be run by another engine than llama.cpp."""
        self._given = given
        known = Calibration(given.home / "calibration.json")
        self._glances = Glances(here(given), context, known, in_another(given, here_now))

    def look(self, rows: Sequence[Row], *, fitting: bool) -> list[Row]:
        """The rows with their glance; `fitting`: only those that fit, and a note that counts the others."""
        kept, left_out = [], Counter[tuple[Fit, str]]()
        for row in rows:
            if row.manifest is not None:
                row.glance = self._glances.of(row.model, row.effective_variant(), self._shape(row))
            elif fitting and self._glances.too_large(row.variant):
                left_out["never", ""] += 1
                continue
            else:
                row.glance = self._glances.of(row.model, row.variant)
            if not fitting or row.glance.fit == "fits":
                kept.append(row)
            else:
                left_out[row.glance.fit, row.glance.why] += 1
        if left_out:
            _tell(left_out)
        return kept

    def document(self, row: Row) -> dict[str, Any]:
        """The figures of one row; each is null, or a value with its 90 % interval and where it comes from."""
        found = in_full(self._glances, row.model, row.effective_variant(), self._shape(row))
        return {
            "fit": found.fit,
            "context": found.context,
            "largestContext": found.largest_context,
            "memoryBytes": _figure(found.memory, whole=True),
            "decodeTokensPerSecond": _figure(found.decode),
            "prefillTokensPerSecond": _figure(found.prefill),
            "firstTokenSeconds": _figure(found.first_token_s),
            "loadSeconds": _figure(found.load_s),
            "whyUnknown": found.why_unknown or None,
        }

    def _shape(self, row: Row) -> ModelShape | None:
        """Of the version that is here; its file is read where an older release did not keep the shape."""
        if row.manifest is None or row.manifest.format != "gguf":
            return None
        from localfoundry.cli import context

        return llama_fit.shape_of(row.manifest, context.store(self._given).main_file(row.manifest))


def ordered(rows: Sequence[Row], order: Order) -> list[Row]:
    """Fastest, smallest or alphabetically first; what is not known comes last, and equals keep their order."""
    keys: dict[Order, Callable[[Row], tuple[bool, float]]] = {
        "speed": lambda row: _key(row.glance.decode if row.glance else None, -1),
        "memory": lambda row: _key(row.glance.memory if row.glance else None, 1),
        "size": lambda row: (row.size_bytes is None, row.size_bytes or 0),
    }
    if order == "name":
        return sorted(rows, key=lambda row: row.model.alias.lower())
    return sorted(rows, key=keys[order])


def words(rows: Sequence[Row]) -> Iterator[Sequence[str]]:
    """Of each row that was looked at the cells for COLUMNS."""
    for row in rows:
        assert row.glance is not None
        yield _cells(row.glance)


def _cells(glance: Glance) -> Sequence[str]:
    """A model that writes nothing has no rate."""
    memory = format_bytes(int(glance.memory.value) if glance.memory else None)
    speed = rate(glance.decode) if glance.decode or glance.memory is None or glance.why else "-"
    return str(glance.context), memory, _FITS[glance.fit], speed


def rate(figure: Interval | None) -> str:
    """`31 (16 to 62) predicted`."""
    if figure is None:
        return "unknown"
    value, low, high = figure.value, figure.low, figure.high
    if low >= 10:
        return f"{value:.0f} ({low:.0f} to {high:.0f}) {figure.source}"
    return f"{_digits(value)} ({_digits(low)} to {_digits(high)}) {figure.source}"


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def _key(figure: Interval | None, sign: int) -> tuple[bool, float]:
    return (True, 0.0) if figure is None else (False, sign * figure.value)


def _figure(figure: Interval | None, *, whole: bool = False) -> dict[str, Any] | None:
    if figure is None:
        return None
    numbers = (figure.value, figure.low, figure.high)
    value, low, high = map(int, numbers) if whole else (round(number, 3) for number in numbers)
    return {"value": value, "low": low, "high": high, "source": figure.source}


def _tell(left_out: Counter[tuple[Fit, str]]) -> None:
    """How many are not shown and why; which fact is missing of what is not known."""
    ordered = sorted(left_out.items(), key=lambda item: list(_LEFT_OUT).index(item[0][0]))
    parts = [f"{count} that {_LEFT_OUT[fits]}" + (f" ({why})" if fits == "unknown" else "")
             for (fits, why), count in ordered]  # fmt: skip
    output.note(f"not shown: {', '.join(parts)}; see them with: foundry model list --sort memory")
    output.note("  why one does not fit: foundry model info NAME --explain")
