"""The scheduler's refusals in words: what, value, limit, and the command to type next."""

from __future__ import annotations

from dataclasses import replace

from localfoundry.advice.ways_out import unloading
from localfoundry.errors import FoundryError, InsufficientMemory, QueueFull, QueueTimeout, WorkerCrashed
from localfoundry.service.alternatives import Alternatives
from localfoundry.service.decisions import Broken, NoRoom, Phase, QueueIsFull, Refusal, TooLate
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes

_WAITED_FOR = {
    None: "a load to begin",
    Phase.LOADING: "its load",
    Phase.READY: "a free place",
    Phase.DRAINING: "other answers to end",
    Phase.STOPPING: "other answers to end",
}


def error_of(why: Refusal, manifest: Manifest, alternatives: Alternatives) -> Exception:
    """The error for a request that was refused."""
    match why:
        case QueueIsFull(length):
            return QueueFull(
                f"{length} requests wait for {manifest.id} already",
                hint="try again later, or: foundry config set queueLength N",
            )
        case TooLate(waited_s, phase):
            return QueueTimeout(
                f"the request waited {waited_s:.0f} s for {_WAITED_FOR[phase]} of {manifest.id}",
                hint="foundry service ps --verbose",
            )
        case NoRoom():
            return _no_room(why, manifest, alternatives)
        case Broken(cause, retry_s):
            return _again(cause, retry_s, manifest)


def _again(cause: Exception, retry_s: float, manifest: Manifest) -> Exception:
    """The same failure for one who asks later; a class of its own is kept, so that clients see the same code."""
    if not isinstance(cause, WorkerCrashed) or retry_s <= 0:
        return cause
    return WorkerCrashed(
        f"{cause.message}, again and again; it is left alone for {retry_s:.0f} s",
        hint=f"foundry service logs {manifest.name}; foundry model load {manifest.alias} tries at once",
    )


def _no_room(why: NoRoom, manifest: Manifest, alternatives: Alternatives) -> FoundryError:
    free = max(why.free, 0)
    advice = alternatives.of_cached(manifest, why.plan.context, why.need, free)
    unload = unloading(why.pinned, why.need - why.free)
    ways = ([unload] if unload else []) + list(advice.ways)
    lines = replace(advice, ways=tuple(ways)).lines()
    if why.need <= why.free + why.others:
        lines.append(f"# or close other programs: they hold {format_bytes(why.others)}")
    forced = f"foundry model run {manifest.id} --ctx {why.plan.context} --force"
    lines.append(f"# at your own risk, although it does not fit: {forced}")
    held = ", ".join(f"{name} ({format_bytes(size)})" for name, size in why.pinned.items())
    return InsufficientMemory(
        f"{manifest.id} with a context of {why.plan.context} tokens needs {format_bytes(why.need)} of memory, and "
        f"{format_bytes(free)} can be had, whatever is unloaded" + (f"; pinned: {held}" if held else ""),
        need_bytes=why.need,
        free_bytes=free,
        largest_context=why.plan.largest_context,
        ways_out=[way.document() for way in ways],
        hint="\n".join(lines),
    )
