"""`foundry cache clean`: a plan that is shown, a question, then the deed.

Without rules only what no model needs goes, and a script need not confirm it: it can be had again. With rules models
go, so somebody has to say yes, at the terminal or with `--yes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from localfoundry.cli import context, output
from localfoundry.errors import UsageError
from localfoundry.units import format_bytes, format_duration, parse_bytes, parse_duration

if TYPE_CHECKING:
    from localfoundry.store.space import RemovalPlan, Use
    from localfoundry.store.store import CleanPlan

T = TypeVar("T")


@click.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option("--older-than", metavar="TIME", help="Also models that were not used for so long, for example 30d.")
@click.option("--keep", type=click.IntRange(1), metavar="N",
              help="Also all but the N newest versions of each model; beside another rule, keep these.")  # fmt: skip
@click.option(
    "--max-size", metavar="SIZE", help="Also the least recently used models, until the rest fits, for example 50GB."
)
@context.json_option
def clean(
    yes: bool, dry_run: bool, older_than: str | None, keep: int | None, max_size: str | None, as_json: bool
) -> None:
    """Remove unfinished downloads and leftovers; with rules, models too, never a pinned or loaded one."""
    from localfoundry.cli.cache import loaded
    from localfoundry.store import space

    given = context.settings()
    store = context.store(given)
    rules = space.Rules(
        _parsed("--older-than", older_than, parse_duration), keep, _parsed("--max-size", max_size, parse_bytes)
    )
    leftovers = store.plan_clean()
    removal = None
    if rules != space.Rules():
        removal = space.plan_removal(space.uses(store, store.manifests(), loaded(given)), rules, time.time())
    if not as_json:
        _show(leftovers, removal)
    nothing = leftovers.is_empty and (removal is None or not removal.doomed)
    go = not dry_run and not nothing and _confirmed(yes, removal, as_json)
    gone: tuple[str, ...] = ()
    freed = 0
    if go:
        freed = store.execute(leftovers)
        if removal is not None:
            removed, more = space.execute(store, removal, lambda: loaded(given))
            gone, freed = tuple(m.id for m in removed), freed + more
    if as_json:
        output.document(_document(leftovers, removal, gone, freed))
    elif go:
        output.data(f"{format_bytes(freed)} freed")
    elif not nothing:
        output.note("nothing was removed")


def _parsed(option: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    try:
        return None if text is None else parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=option) from None


def _confirmed(yes: bool, removal: RemovalPlan | None, as_json: bool) -> bool:
    removes_models = removal is not None and bool(removal.doomed)
    if yes or (not removes_models and (as_json or not output.interactive())):
        return True
    if as_json or not output.interactive():
        raise UsageError("models would be removed, and nobody is here to say yes", hint="add --yes, or --dry-run")
    return click.confirm("Remove them?")


def _paths(plan: CleanPlan) -> list[str]:
    return [str(p) for p in (*plan.leftovers, *plan.blobs, *(partial.path for partial in plan.partials))]


def _show(leftovers: CleanPlan, removal: RemovalPlan | None) -> None:
    paths = _paths(leftovers)
    for path in paths:
        output.data(f"would remove {path}")
    if removal is None:
        if leftovers.is_empty:
            output.data("Nothing to clean: no unfinished downloads and no leftovers")
        else:
            output.data(f"{format_bytes(leftovers.size_bytes)} in {len(paths)} files; cached models are not touched")
        return
    for use in removal.doomed:
        output.data(f"would remove {use.manifest.id}, {_unused(use)}")
    for use in removal.spared:
        output.data(f"stays although a rule means it: {use.manifest.id} is {use.protected}")
    size = format_bytes(leftovers.size_bytes + removal.freed_bytes)
    if leftovers.is_empty and not removal.doomed:
        output.data("Nothing to clean: no rule means a model that may go")
    else:
        stays = f"{format_bytes(removal.left_bytes)} of models stay"
        output.data(f"{size} in {len(removal.doomed)} models and {len(paths)} other files; {stays}")


def _unused(use: Use) -> str:
    idle_s = max(0.0, time.time() - use.last_used)
    return f"{format_bytes(use.manifest.size_bytes)}, not used for {format_duration(idle_s)}"


def _document(leftovers: CleanPlan, removal: RemovalPlan | None, gone: tuple[str, ...], freed: int) -> dict[str, Any]:
    document: dict[str, Any] = {"plan": _paths(leftovers), "planBytes": leftovers.size_bytes, "freedBytes": freed}
    if removal is not None:
        document["planBytes"] += removal.freed_bytes
        document |= {
            "models": [use.manifest.id for use in removal.doomed],
            "spared": [{"id": use.manifest.id, "reason": use.protected} for use in removal.spared],
            "removed": list(gone),
            "leftBytes": removal.left_bytes,
        }
    return document
