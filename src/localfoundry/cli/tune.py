"""`foundry tune`: the best way of loading a model on this machine, found by measuring and kept as its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.errors import UsageError

if TYPE_CHECKING:
    from localfoundry.cli.tune_run import Work
    from localfoundry.config import Settings
    from localfoundry.store.manifest import Manifest


@click.command("tune")
@click.argument("name", metavar="MODEL")
@click.option(
    "--for",
    "purpose",
    default="chat",
    show_default=True,
    metavar="chat|long-prompt|throughput|low-memory|rewrite",
    help="What it is to be good at.",
)
@click.option("--budget", default="5m", show_default=True, help="How long it may take: 90s, 5m, 1h.")
@click.option("--engine", help="Try this engine alone beside the default: llama.cpp, openvino or onnx.")
@click.option(
    "--max-loss",
    default="2%",
    show_default=True,
    help="How much worse the perplexity may become, shown by its interval.",
)
@click.option("--slower", default="10%", show_default=True, help="How much slower less memory may be, for low-memory.")
@click.option("--quants", help="Try these quantizations alone beside the model's own: Q8_0,Q4_0.")
@click.option(
    "--make/--no-make",
    default=True,
    show_default=True,
    help="Make re-encodings of the model that engines read better, where the disk has room.",
)
@click.option("--rounds", type=click.IntRange(6, 100), default=12, show_default=True,
              help="Rounds of proof, at most; as many as the budget has room for.")  # fmt: skip
@click.option("--again", is_flag=True, help="Measure anew what was measured here before.")
@click.option("--explain", is_flag=True, help="Show the saved profiles of the model with their evidence.")
@click.option("--reset", is_flag=True, help="Forget the saved profiles: all, or the one for --for where that is given.")
@click.option("--dry-run", is_flag=True, help="Only show what would be tried.")
@context.json_option
@click.pass_context
def tune(
    ctx: click.Context, name: str, purpose: str, budget: str, engine: str | None, max_loss: str, slower: str,
    quants: str | None, make: bool, rounds: int, again: bool, explain: bool, reset: bool, dry_run: bool, as_json: bool,
) -> int | None:  # fmt: skip
    """Measure ways of loading MODEL, and have the service load it by the best one from now on.

    Engines, files, threads, batches, cache types, slots and speculation are tried beside the default, in turns. One
    wins only where the interval of its ratio lies above 1 and its answers are shown to be as good. The service in use
    is not touched; its models are to be unloaded meanwhile.
    """  # fmt: skip
    from localfoundry.cli import tune_run
    from localfoundry.cli.versions import required
    from localfoundry.tuning import purpose as purposes

    given = context.settings()
    manifest = required(given, name)
    wanted = purposes.find(purpose)
    chosen = ctx.get_parameter_source("purpose") is not click.core.ParameterSource.DEFAULT
    if explain or reset:
        return _kept(given, manifest, wanted.name if chosen else None, reset, as_json)
    work = tune_run.Work(
        given, manifest, wanted, _seconds(budget), tune_run.engine_of(engine), _share(max_loss, "max-loss"),
        _share(slower, "slower"), tuple((quants or "").replace(",", " ").split()), rounds, make, again, as_json,
    )  # fmt: skip
    if dry_run:
        _show_plan(work, as_json)
        return None
    return tune_run.run(work)


def _kept(given: Settings, manifest: Manifest, purpose: str | None, reset: bool, as_json: bool) -> int:
    """Show the profiles of a model on this machine, or remove them. Exit status 1: there are none to show."""
    import msgspec

    from localfoundry.cli import tune_report
    from localfoundry.config import profiles
    from localfoundry.results import place
    from localfoundry.service.tuned import sha256_of

    sha256, machine = sha256_of(context.store(given), manifest), place.machine_id()
    if reset:
        gone = profiles.forget(given.home, machine, sha256, purpose)
        if as_json:
            output.document({"removed": [p.purpose for p in gone]})
        else:
            words = ", ".join(p.purpose for p in gone)
            output.data(f"{manifest.id} is loaded as usual again (was tuned for {words})" if gone
                        else f"{manifest.id} has no profile on this machine")  # fmt: skip
        return 0
    known = [p for p in profiles.read(given.home) if (p.machine, p.sha256) == (machine, sha256)]
    known = [p for p in known if purpose in (None, p.purpose)]
    if as_json:
        output.document({"model": manifest.id, "profiles": [msgspec.to_builtins(p) for p in known]})
        return 0 if known else 1
    for profile in known:
        output.data(f"{manifest.id}: {profile.words}, with {profile.engine_version}")
        if profile.evidence:
            tune_report.show(profile.evidence)
        else:
            way = " ".join((profile.engine_words, profile.runs or manifest.id, *profile.arguments))
            output.data(f"    {way}; its evidence is on the machine that it was tuned on")
    if not known:
        output.note(f"{manifest.id} has no profile on this machine: foundry tune {manifest.alias}")
    return 0 if known else 1


def _show_plan(work: Work, as_json: bool) -> None:
    from localfoundry.cli import tune_run

    space = tune_run.space_of(work)
    document: dict[str, Any] = {
        "model": work.manifest.id, "for": work.purpose.name, "budgetSeconds": work.budget_s,
        "default": space.base.label, "make": [plan.name for plan in space.plans],
        "files": [setting.label for setting in space.files],
        "options": [option.label for option in space.options(space.base)],
    }  # fmt: skip
    if as_json:
        output.document(document)
        return
    output.data(f"Default: {document['default']}")
    for what in ("make", "files", "options"):
        output.data(f"{what.capitalize() + ':':<8} {', '.join(document[what]) or 'none'}")


def _seconds(text: str) -> float:
    from localfoundry.units import parse_duration

    try:
        return float(parse_duration(text + "in" if text.strip().endswith("m") else text))
    except ValueError as exc:
        raise UsageError(f"--budget: {exc}", hint="--budget 5m", param="budget") from None


def _share(text: str, flag: str) -> float:
    """`2%` or `0.02`."""
    stripped = text.strip()
    try:
        value = float(stripped.removesuffix("%")) / (100 if stripped.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        words = f"--{flag} {text[:50]!r} is not a share; write for example 2%"
        raise UsageError(words, hint=f"--{flag} 2%", param=flag)
    return value
