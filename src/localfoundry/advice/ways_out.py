"""What to do where a load does not fit: commands that would work, each with what it needs.

Pure: prospects in, ways out. A way is only named if the figures say that it works: for what is not known for certain
the upper end of its interval has to fit. A way that does not exist is told in words, so that nobody looks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from localfoundry.advice.prospects import Prospect
from localfoundry.units import format_bytes

Kind = Literal["context", "variant", "model", "unload"]

_SLACK = 0.03  # of the room is left: other programs use more or less of the memory by the time the command is typed


@dataclass(frozen=True, slots=True)
class Way:
    """One command. `need_bytes` is what the load would take then; None where the command is no load."""

    kind: Kind
    command: str
    words: str
    model: str
    context: int | None = None
    need_bytes: int | None = None

    def document(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Advice:
    """The ways that there are, and sentences about those that there are not."""

    ways: tuple[Way, ...] = ()
    missing: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For a person: commands that can be copied with their comment, aligned."""
        width = max((len(way.command) for way in self.ways), default=0)
        return [f"{way.command:{width}}  # {way.words}" for way in self.ways] + [f"# {words}" for words in self.missing]


def room_of(free_bytes: int) -> int:
    """Bytes that a command typed in a moment can rely on, of what is free now."""
    return int(max(free_bytes, 0) * (1 - _SLACK))


def ways_out(wanted: Prospect, shorter: Prospect | None, others: Iterable[Prospect], room_bytes: int) -> Advice:
    """Three ways for a load of `wanted` that `room_bytes` do not hold: less context, another variant, another model.

    `shorter`: the same variant with the largest context that fits; None where no useful one does. `others`: prospects
    of what could be had instead, each possibly with several contexts; of other models only what their alias means.
    """
    fitting = [one for one in others if fits(one, room_bytes)]
    variant = _best(one for one in fitting if _is_variant(one, wanted))
    model = _best(one for one in fitting if one.alias.lower() != wanted.alias.lower() and _same_task(one, wanted))
    ways, missing = [], []
    if shorter is not None and shorter.context < wanted.context:
        ways.append(_way("context", "smaller context", shorter, wanted.variant))
    else:
        missing.append(f"no smaller context of {wanted.variant} fits")
    if variant is not None:
        ways.append(_way("variant", f"smaller variant {variant.quantization or ''}".strip(), variant, variant.variant))
    else:
        missing.append(f"no smaller variant of {wanted.alias} that fits is known")
    if model is not None:
        ways.append(_way("model", f"smaller model for {wanted.tasks[0]}", model, model.alias))
    else:
        missing.append(f"no smaller model for {(wanted.tasks or ('this task',))[0]} that fits is known")
    return Advice(tuple(ways), tuple(missing))


def unloading(pinned: Mapping[str, int], lacking_bytes: int) -> Way | None:
    """Which pinned models to unload so that so many bytes more are free; None where all of them are not enough."""
    enough = {name: size for name, size in pinned.items() if size >= lacking_bytes}
    if enough:
        name = min(enough, key=lambda one: (enough[one], one))
        return Way("unload", f"foundry model unload {name}", f"pinned, would give {format_bytes(enough[name])}", name)
    total = sum(pinned.values())
    if len(pinned) < 2 or total < lacking_bytes:
        return None
    return Way("unload", "foundry model unload --all", f"pinned, would give {format_bytes(total)}", ", ".join(pinned))


def fits(one: Prospect, room_bytes: int) -> bool:
    """Whether it surely does: the upper end of what it needs."""
    return one.memory is not None and one.memory.high <= room_bytes


def _is_variant(one: Prospect, wanted: Prospect) -> bool:
    return one.alias.lower() == wanted.alias.lower() and one.variant != wanted.variant


def _same_task(one: Prospect, wanted: Prospect) -> bool:
    return bool(wanted.tasks) and wanted.tasks[0] in one.tasks


def _best(candidates: Iterable[Prospect]) -> Prospect | None:
    """The longest context first, then the largest: of one family more bytes are more quality."""
    found: Sequence[Prospect] = list(candidates)
    return max(found, key=lambda one: (one.context, one.memory.value if one.memory else 0.0), default=None)


def _way(kind: Kind, what: str, one: Prospect, name: str) -> Way:
    assert one.memory is not None
    command = f"foundry model run {name} --ctx {one.context}"
    need = int(one.memory.value)
    return Way(kind, command, f"{what}: needs {format_bytes(need)}", name, one.context, need)
