"""`foundry model reencode`: a version in tensor types, or a form, that an engine reads well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.made import tell
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.build.reencode import Plan


@click.command("reencode")
@click.argument("name", metavar="MODEL")
@click.option("--to", "target", default="q8_0", show_default=True, metavar="q8_0|f16|openvino",
              help="The tensor type to make, or a folder for OpenVINO with Q8_0 weights.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@context.json_option
def reencode(name: str, target: str, dry_run: bool, as_json: bool) -> None:
    """Make a version of MODEL whose tensors every engine reads as they are, with next to no change in its weights.

    Engines other than llama.cpp read few of the types that GGUF files have, and some change the weights while they
    read them. The new version stands under the same alias; the one it was made of stays what the alias means.
    """
    from localfoundry.build import reencode as build
    from localfoundry.cli.progress import PullProgress
    from localfoundry.cli.versions import required

    given = context.settings()
    store = context.store(given)
    made = build.plan(store, required(given, name), build.target_of(target))
    if dry_run:
        _show_plan(made, as_json)
        return
    if made.present is None and not as_json:
        output.note(f"Re-encoding {made.source.id}: {_changes(made)}, {format_bytes(made.size_bytes)}...")
    with PullProgress() as progress:
        manifest = build.carry_out(store, made, progress)
    tell(manifest, _document(made), fresh=made.present is None, as_json=as_json)


def _changes(made: Plan) -> str:
    changes = [f"{count} tensors {old} to {made.types[old]}" for old, count in made.tensors.items()]
    return ", ".join(changes + (["a folder for OpenVINO"] if made.target == "openvino" else []))


def _document(made: Plan) -> dict[str, Any]:
    return {
        "source": made.source.id,
        "name": made.name,
        "present": made.present.id if made.present else None,
        "changes": [{"type": old, "to": made.types[old], "tensors": n} for old, n in made.tensors.items()],
        "sizeBytes": made.size_bytes,
        "needsBytes": made.needs_bytes,
        "freeBytes": made.free_bytes,
        "fits": made.fits,
        "seconds": round(made.seconds, 1),
    }


def _show_plan(made: Plan, as_json: bool) -> None:
    if as_json:
        output.document(_document(made))
        return
    if made.present:
        output.data(f"{made.present.id} is here already: nothing to do.")
        return
    output.data(f"{made.name} from {made.source.id}: {_changes(made)}")
    output.data(f"Size: {format_bytes(made.size_bytes)}, in about {format_duration(made.seconds)}.")
    room = "enough" if made.fits else "too little"
    output.data(f"Needed free, with what is left over: {format_bytes(made.needs_bytes)}; "
                f"free: {format_bytes(made.free_bytes)}, {room}.")  # fmt: skip
