"""`foundry model quantize`: a version of a model in a smaller type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.made import tell
from localfoundry.errors import UsageError
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.build.quantize import QuantPlan


@click.command("quantize")
@click.argument("name", metavar="MODEL")
@click.option("--to", "target", required=True, metavar="TYPE", help="Q4_K_M, Q8_0, IQ4_XS and the others of llama.cpp.")
@click.option("--imatrix", is_flag=True, help="Keep best what the model uses most, found by running it over a text.")
@click.option("--tensor-type", "mixed", multiple=True, metavar="NAME=TYPE",
              help="Give tensors whose name this regular expression finds another type; may be repeated.")  # fmt: skip
@click.option("--allow-requantize", is_flag=True, help="Take weights that were quantized before, and lose more.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@context.json_option
def quantize(
    name: str, target: str, imatrix: bool, mixed: tuple[str, ...], allow_requantize: bool, dry_run: bool, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Make a smaller version of MODEL, which takes less memory and answers faster, and less well.

    F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 and Q4_0 are made here; the others, and any with --imatrix, need
    llama-quantize: foundry engine install llama.cpp --native. Of several versions of MODEL the one that lost least is
    taken, unless one of them is named. The new one stands under the same alias; what the alias means stays.
    """
    from localfoundry.build import quantize as build
    from localfoundry.cli.progress import PullProgress
    from localfoundry.cli.versions import required

    given = context.settings()
    store = context.store(given)
    named = required(given, name)
    by_alias = named.alias.lower() == name.strip().lower()
    source = build.best_source(store, named) if by_alias else named
    wanted = build.tensor_types_of(mixed)

    def plan(allowed: bool) -> QuantPlan:
        return build.plan(store, source, target, given, imatrix=imatrix, tensor_types=wanted, allow_requantize=allowed)

    made = plan(allow_requantize)
    if made.warning and made.why_not == made.warning and not dry_run:
        made = plan(_agreed(made, yes, as_json))
    if dry_run:
        _show(made, as_json)
        return
    if made.present is None and made.why_not is None and not as_json:
        output.note(f"Quantizing {made.source} to {made.type}, about {format_bytes(made.size_bytes)}...")
    with PullProgress() as progress:
        manifest = made.present or build.make(store, made, progress=progress)
    how_far = f"how far it is from its source: foundry eval --fidelity {manifest.name}"
    tell(manifest, _document(made), fresh=made.present is None, as_json=as_json, more=how_far)


def _agreed(made: QuantPlan, yes: bool, as_json: bool) -> bool:
    """Whether weights that were quantized before may be taken. Raises UsageError where nobody can be asked."""
    if yes:
        output.note(f"warning: {made.warning}")
        return True
    if as_json or not output.interactive():
        raise UsageError(made.warning or "", hint=made.hint)
    output.note(f"warning: {made.warning}")
    return click.confirm("Make it?", err=True)


def _document(made: QuantPlan) -> dict[str, Any]:
    return {
        "source": made.source,
        "name": made.name,
        "type": made.type,
        "tool": made.tool,
        "imatrix": made.imatrix,
        "tensorTypes": [f"{pattern}={kind}" for pattern, kind in made.tensor_types],
        "present": made.present.id if made.present else None,
        "sizeBytes": made.size_bytes,
        "needsBytes": made.needs_bytes,
        "freeBytes": made.free_bytes,
        "fits": made.fits,
        "seconds": round(made.seconds, 1),
        "warning": made.warning,
        "whyNot": made.why_not,
        "hint": made.hint,
    }


def _show(made: QuantPlan, as_json: bool) -> None:
    if as_json:
        output.document(_document(made))
        return
    if made.present:
        output.data(f"{made.present.id} is here already: nothing to do.")
        return
    output.data(f"{made.name} from {made.source}, by {made.tool}" + (", with an importance matrix" * made.imatrix))
    about = "" if made.tool == "localfoundry" else "about "
    output.data(f"Size: {about}{format_bytes(made.size_bytes)}, in about {format_duration(made.seconds)}.")
    room = "enough" if made.fits else "too little"
    output.data(f"Needed free, with what is left over: {format_bytes(made.needs_bytes)}; "
                f"free: {format_bytes(made.free_bytes)}, {room}.")  # fmt: skip
    if made.warning and made.warning != made.why_not:
        output.data(f"Warning: {made.warning}.")
    if made.why_not:
        output.data(f"Not as asked: {made.why_not}.")
        output.note(f"  try: {made.hint}")
