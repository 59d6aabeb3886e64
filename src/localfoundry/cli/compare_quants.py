"""`foundry compare MODEL --quants Q8_0,Q4_K_M`: the quantizations of one model, found on this disk or made.

What is missing is said with size and time before anything is made, and all of it is looked at first: a tool that is
not here, or a disk that is too small for all of them together, refuses the comparison before the first file is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from localfoundry.build import quantize
from localfoundry.build.quantize import QuantPlan
from localfoundry.cli import context, output
from localfoundry.cli.versions import required
from localfoundry.errors import DiskFull, UsageError
from localfoundry.store import disk
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.config import Settings
    from localfoundry.store.manifest import Manifest, Recipe
    from localfoundry.store.store import Store


def versions(given: Settings, name: str, wanted: str, *, yes: bool, quiet: bool) -> list[str]:
    """Ids of the model itself and of each wanted quantization of it, the missing ones made first.

    Raises UnknownModel, UsageError where a type is none, cannot be made or nobody says yes, DiskFull.
    """
    store, source = context.store(given), required(given, name)
    types = list(dict.fromkeys(quantize.type_of(word) for word in wanted.split(",") if word.strip()))
    if not types:
        raise UsageError("--quants names no type", hint="--quants Q8_0,Q4_K_M,Q4_0", param="quants")
    by_alias = source.alias.lower() == name.strip().lower()
    origin = quantize.best_source(store, source) if by_alias else source
    found = {kind: _here(store, (source, origin), kind) for kind in types}
    plans = {kind: _planned(store, origin, kind, given) for kind in types if found[kind] is None}
    if plans:
        _require_room(store, origin, plans)
        if not quiet or not yes:
            _tell(origin, plans)
        if not yes and not _confirmed(len(plans)):
            raise UsageError("nothing was made, and so nothing is compared")
    for kind, plan in plans.items():
        found[kind] = _made(store, plan)
    compared = [source, *(one for one in found.values() if one is not None)]
    return list(dict.fromkeys(one.id for one in compared))


def _here(store: Store, sources: Sequence[Manifest], kind: str) -> Manifest | None:
    """A source itself, what was made of one without more ado, or another file of the same model that is called so."""
    sums = {file.sha256 for source in sources for file in source.files}
    own = [source for source in sources if source.quantization == kind]
    same = [m for m in store.manifests() if m.format == "gguf" and m.quantization == kind]
    made = [m for m in same if m.recipe and m.recipe.source_sha256 in sums and _plain(m.recipe)]
    others = [m for m in same if m.recipe is None and m.alias == sources[0].alias]
    return next(iter([*own, *made, *others]), None)


def _plain(recipe: Recipe) -> bool:
    return not recipe.options and not recipe.inputs


def _planned(store: Store, origin: Manifest, kind: str, given: Settings) -> QuantPlan:
    """What is lost by quantizing twice is what such a comparison measures: it is said, and no reason to refuse."""
    plan = quantize.plan(store, origin, kind, given, allow_requantize=True)
    if plan.why_not is not None:
        raise UsageError(
            f"{kind} of {origin.id} is not on this disk and cannot be made: {plan.why_not}", hint=plan.hint,
            param="quants",
        )  # fmt: skip
    return plan


def _require_room(store: Store, source: Manifest, plans: dict[str, QuantPlan]) -> None:
    """All of them have to be there at the same time, to be measured in turns."""
    free, together = disk.free_bytes(store.root), sum(plan.size_bytes for plan in plans.values())
    if all(plan.fits for plan in plans.values()) and (free is None or together <= free):
        return
    raise DiskFull(
        f"{', '.join(plans)} of {source.id} need {format_bytes(together)} and some room left over, and "
        f"{format_bytes(free)} are free at {store.root}",
        hint="make room (foundry cache clean), or compare fewer: --quants " + next(iter(plans)),
    )


def _tell(source: Manifest, plans: dict[str, QuantPlan]) -> None:
    output.note(f"Not on this disk yet, to be made of {source.id}:")
    for kind, plan in plans.items():
        output.note(
            f"  {kind}: {plan.name}, {format_bytes(plan.size_bytes)}, about {format_duration(plan.seconds)}, "
            f"by {plan.tool}"
        )
    for warning in dict.fromkeys(plan.warning for plan in plans.values() if plan.warning):
        output.note(f"  {warning}")


def _confirmed(count: int) -> bool:
    if not output.interactive():
        raise UsageError("nobody is here to be asked whether to make them", hint="add --yes", param="quants")
    return click.confirm(f"Make {'it' if count == 1 else 'them'}?", err=True)


def _made(store: Store, plan: QuantPlan) -> Manifest:
    """Ctrl-C ends it as it ends every command; what is finished stays."""
    from localfoundry.cli.progress import PullProgress

    with PullProgress() as progress:
        return quantize.make(store, plan, progress=progress)


def named(models: Sequence[str], endpoints: Sequence[object]) -> str:
    """The one model whose quantizations are compared. Raises UsageError."""
    if len(models) != 1 or endpoints:
        raise UsageError(
            f"--quants is for one model, and {len(models) + len(endpoints)} candidates were named",
            hint=f"foundry compare {models[0] if models else 'smollm2-135m'} --quants Q8_0,Q4_0", param="quants",
        )  # fmt: skip
    return models[0]
