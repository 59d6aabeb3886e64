"""Which engine runs a model, and why: from facts to an ordered list of candidates, and those left out with the reason.

Pure: what is installed, what the disk has and how a model is used come in as values. Whoever loads tries the candidates
in their order; the first one that becomes ready stays. What each engine reads faithfully is measured (docs/engines.md).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from localfoundry.config.model_defaults import ENGINES
from localfoundry.engines.base import Engine, ModelFacts
from localfoundry.errors import InvalidRequest, NotRunnable

# Engines from the first to the last choice, by what a model is used for. The measurements behind it are in
# docs/engines.md: one conversation (`chat`) and many requests at once (`throughput`), on x86-64.
ORDER: Mapping[str, Mapping[str, str]] = {
    "chat": {
        "llama.cpp": "it is the fastest for one conversation at a time",
        "openvino": "it comes next for one conversation at a time",
        "onnx": "it comes last for one conversation at a time",
    },
    "throughput": {
        "openvino": "it is the fastest for many requests at once",
        "llama.cpp": "it comes next for many requests at once",
        "onnx": "it comes last for many requests at once",
    },
}
AUTO = "chat"  # what `auto` means
_MEASURED_MACHINES = ("x86_64", "amd64")  # elsewhere nothing but `chat` is known to be right
ARGUMENTS_OF = "llama.cpp"  # whose arguments `engineArguments` are, where no engine is chosen with them


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of the choice. `engine`: this one or none; `preferred`: this one first, where it takes the model.

    `seen`: the profile is that of its requests until now, and nobody chose it.
    `failed`: engines that could not load this very file, with why. `arguments`: a person's own for the engine.
    """

    engine: str | None = None
    preferred: str | None = None
    profile: str = "auto"
    seen: bool = False
    device: str | None = None
    keep_state: bool = False
    arguments: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reencoding:
    """A re-encoding of the model's file for one engine. `ready`: the id of the version that is one, where it is there.

    `better`: it is taken although the engine reads the file itself well. `why_not`: why none would be made for a load.
    """

    type: str = "Q8_0"
    ready: str | None = None
    better: bool = False
    why_not: str | None = "no re-encoding can be made of it"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that can run the model. `runs`: the id of the re-encoding that it gets in place of the file itself;
    `reencode_to`: the type of one that has to be made first. `build`: of llama.cpp, in place of the one in use.
    """

    engine: Engine
    reason: str
    runs: str | None = None
    reencode_to: str | None = None
    build: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An engine that will not run the model, and why; a command that changes that stands at the end of the words.

    `passing`: it may be otherwise another time, as where memory was short.
    """

    engine: str
    why: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.engine}: {self.why}"


@dataclass(frozen=True, slots=True)
class Choice:
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...] = ()


NO_REENCODINGS: Mapping[str, Reencoding] = {}
_NONE = Reencoding()

Misread = Callable[
    [str, Iterable[str]], str | None
]  # engine, tensor types -> words for what it misreads; None: nothing


def choose(
    facts: ModelFacts, wish: Wish, engines: Sequence[Engine], misread: Misread,
    reencodings: Mapping[str, Reencoding] = NO_REENCODINGS,
) -> Choice:  # fmt: skip
    """Candidates, best first, and the engines of the model's format that are none; `reencodings` by engine.

    Raises InvalidRequest for the name of an engine that there is not, NotRunnable where a wanted engine, or every
    engine, is left out.
    """
    wanted = named(wish.engine, engines).name if wish.engine else None
    fitting = [engine for engine in engines if facts.format in engine.formats]
    _check_device(wish.device, [engine for engine in fitting if engine.missing() is None])
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    for engine in _ordered(fitting, wish):
        against = _against(engine, facts, wish, forced=engine.name == wanted)
        badly = None if against else misread(engine.name, facts.tensor_types)
        reencoding = reencodings.get(engine.name, _NONE)
        if badly and not reencoding.ready and reencoding.why_not is not None:
            against = f"{badly}, and {reencoding.why_not}"
        if against:
            left_out.append(LeftOut(engine.name, against))
        else:
            reason = _reason(engine, wish, wanted, alone=not candidates)
            candidates.append(_candidate(engine, reason, badly, reencoding))
    candidates, left_out = _arguments_apart(candidates, left_out, wish)
    if wanted is not None:
        _check_wanted(wanted, candidates, left_out, facts)
        candidates = [c for c in candidates if c.engine.name == wanted]
    if not candidates:
        raise _nothing(facts, left_out, engines)
    if len(candidates) == 1 and not left_out and wanted is None:
        only = candidates[0]
        candidates = [replace(only, reason=f"it is the engine for {facts.format} files")]
    return Choice(tuple(candidates), tuple(left_out))


def named(name: str, engines: Iterable[Engine]) -> Engine:
    """The engine of that name, however it is written. Raises InvalidRequest with the nearest names."""
    known = {engine.name: engine for engine in engines}
    letters = _letters(name)
    found = next((engine for other, engine in known.items() if _letters(other) == letters), None)
    if found is not None:
        return found
    from difflib import get_close_matches  # only a wrong name needs it

    shown = [other for other in ENGINES if not other.startswith("fake")]
    near = get_close_matches(name.lower(), shown, n=3, cutoff=0.5) or shown
    raise InvalidRequest(f"no engine is called {name[:50]!r}", hint=f"did you mean: {', '.join(near)}?", param="engine")


def profile_of(wish: Wish) -> str:
    """`chat` or `throughput`, whatever was asked; where no measurement speaks for another order, `chat`."""
    if platform.machine().lower() not in _MEASURED_MACHINES:
        return "chat"
    return AUTO if wish.profile == "auto" else wish.profile


def _ordered(engines: list[Engine], wish: Wish) -> list[Engine]:
    order = list(ORDER[profile_of(wish)])

    def rank(engine: Engine) -> tuple[bool, bool, int]:
        preferred = wish.preferred is not None and _letters(engine.name) == _letters(wish.preferred)
        loses_state = wish.keep_state and not engine.saves_state
        place = order.index(engine.name) if engine.name in order else len(order)
        return not preferred, loses_state, place

    return sorted(engines, key=rank)


def _against(engine: Engine, facts: ModelFacts, wish: Wish, *, forced: bool) -> str | None:
    """Why the engine is none for this model, the cheapest question first."""
    missing = engine.missing()
    if missing is not None:
        return missing
    if wish.device is not None and wish.device.upper() not in engine.devices:
        return f"it runs on {', '.join(sorted(engine.devices))}, not on {wish.device}"
    if engine.name in wish.failed and not forced:
        return f"it could not load it: {wish.failed[engine.name]}"
    return engine.takes(facts)


def _candidate(engine: Engine, reason: str, badly: str | None, reencoding: Reencoding) -> Candidate:
    if badly:
        made = f"its re-encoding {reencoding.ready}" if reencoding.ready else "a re-encoding that is made at the load"
        reason += f"; {badly}, so it runs {made} ({reencoding.type})"
        return Candidate(engine, reason, reencoding.ready, None if reencoding.ready else reencoding.type)
    return Candidate(engine, reason, reencoding.ready if reencoding.better else None)


def _reason(engine: Engine, wish: Wish, wanted: str | None, *, alone: bool) -> str:
    if engine.name == wanted:
        return "it was asked for"
    if wish.preferred is not None and _letters(engine.name) == _letters(wish.preferred):
        return "the setting engine prefers it"
    known = ORDER[profile_of(wish)].get(engine.name)
    if known and alone and wish.seen and profile_of(wish) != AUTO:
        known += ", and that is how most of its last requests came"
    return known or ("it comes first" if alone else "it comes next")


def _arguments_apart(
    candidates: list[Candidate], left_out: list[LeftOut], wish: Wish
) -> tuple[list[Candidate], list[LeftOut]]:
    """Arguments that a person wrote for one engine are not given to another, which would refuse them."""
    its_own = [c for c in candidates if c.engine.name == ARGUMENTS_OF]
    if not wish.arguments or wish.engine is not None or not its_own:
        return candidates, left_out
    why = f"the model's engineArguments are for {ARGUMENTS_OF}"
    return its_own, [*left_out, *(LeftOut(c.engine.name, why) for c in candidates if c not in its_own)]


def _check_device(device: str | None, engines: list[Engine]) -> None:
    """Raise InvalidRequest for a device on which no engine that is here ever runs."""
    known = sorted({kind for engine in engines for kind in engine.devices})
    if device is not None and known and device.upper() not in known:
        raise InvalidRequest(
            f"no engine here runs on {device[:50]}; devices that can be used: {', '.join(known)}",
            hint=f"--device {known[0]}",
            param="device",
        )


def _check_wanted(wanted: str, candidates: list[Candidate], left_out: list[LeftOut], facts: ModelFacts) -> None:
    """Raise NotRunnable where the wanted engine cannot: why, and which can."""
    if any(c.engine.name == wanted for c in candidates):
        return
    why = next((one.why for one in left_out if one.engine == wanted), f"it does not read {facts.format} files")
    others = [c.engine.name for c in candidates]
    can = f"; {' and '.join(others)} can" if others else ""
    raise NotRunnable(
        f"{wanted} cannot run it: {why}{can}",
        hint=_command(why) or (f"--engine {others[0]}" if others else None),
        param="engine",
    )


def _nothing(facts: ModelFacts, left_out: list[LeftOut], engines: Sequence[Engine]) -> NotRunnable:
    if left_out:
        words = "; ".join(str(one) for one in left_out)
        hints = (_command(one.why) for one in left_out)
        return NotRunnable(f"no engine here can run it: {words}", hint=next((h for h in hints if h), None))
    known = ", ".join(sorted({name for e in engines if e.missing() is None for name in e.formats} - {"fake"}))
    return NotRunnable(f"no engine here runs the format {facts.format}; formats that run: {known}")


def _command(why: str) -> str | None:
    """The command at the end of a reason, after a colon."""
    _, _, last = why.rpartition(": ")
    return last if last.startswith(("pip ", "foundry ")) else None


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
