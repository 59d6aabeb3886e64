"""`foundry model compile`: what its authors published, or a GGUF that is here, in a form that an engine runs."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from localfoundry.cli import context, output
from localfoundry.cli.made import tell
from localfoundry.errors import UsageError
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from localfoundry.build.compilation import Plan
    from localfoundry.store.manifest import Manifest

MAX_LOSS = "15%"  # the starter loses 13 % by the 4 bits made here, and 34 % by the builder's (docs/compile.md)


@click.command("compile")
@click.argument("source")
@click.option("--format", "form", default="onnx", show_default=True, metavar="onnx|gguf|openvino",
              help="What to make.")  # fmt: skip
@click.option(
    "--precision", metavar="int4|int8|fp16|bf16|fp32", help="Of the weights; without it int4 for ONNX, int8 else."
)
@click.option("--quant", metavar="TYPE", help="For GGUF, its type instead: Q8_0, Q4_K_M, F16 and others.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda|dml|webgpu|trt-rtx",
              help="What an ONNX folder is for; only cpu was ever tried, and only that is checked.")  # fmt: skip
@click.option("--name", help="Name of the new version.")
@click.option("--max-loss", default=MAX_LOSS, show_default=True, metavar="N%",
              help="Refuse a result whose perplexity is above its source's by more.")  # fmt: skip
@click.option("--no-check", is_flag=True, help="Do not try the result before it appears.")
@click.option("--verify", is_flag=True, help="Build what is here already once more, and compare the two byte by byte.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@context.json_option
def compile_model(
    source: str, form: str, precision: str | None, quant: str | None, device: str, name: str | None, max_loss: str,
    no_check: bool, verify: bool, dry_run: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compile SOURCE, a Hugging Face id (ORG/REPO[@REVISION]), a folder of that form, or a GGUF model that is here.

    The result is tried before it appears: its answers against those of the source's own weights, its chat template, and
    its speed. One that is worse than --max-loss allows is kept aside with its report.
    """
    from localfoundry.build import compilation, targets, toolchain
    from localfoundry.cli import compile_source
    from localfoundry.cli.progress import PullProgress

    given = context.settings()
    store = context.store(given)
    target = targets.parse(form.strip().lower(), precision, quant, device)
    loss = share(max_loss)
    tools = toolchain.find(given)
    origin = compile_source.find(given, tools, target, source)
    made = compilation.plan(given, store, tools, origin.source, target, name)
    checked = not no_check and target.device == "cpu"
    if dry_run:
        _show_plan(made, origin.fetch_bytes, as_json)
        return
    _confirm(made, origin.fetch_bytes, yes=yes, as_json=as_json)
    if origin.pull is not None:
        made = compilation.plan(given, store, tools, compile_source.fetched(given, origin), target, name)
    with PullProgress() as progress:
        if verify:
            _verify(compilation.verify(given, store, tools, made, progress), as_json)
            return
        tried = None
        if checked:
            from localfoundry.cli import compile_trial

            compile_trial.require_engine(target.format)

            def tried(trial: compilation.Trial) -> Any:
                return compile_trial.try_out(given, tools, made, trial, loss, _command(), progress)

        manifest, fresh = compilation.carry_out(given, store, tools, made, progress, tried=tried)
    _show(manifest, fresh, checked, as_json)


def share(text: str) -> float:
    """`5%` or `0.05` as a share. Raises UsageError."""
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise UsageError(f"--max-loss is a share such as 5%, not {text[:50]}", param="max-loss")
    return value


def _command() -> str:
    """As it was typed, without what it said of the loss."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == "--max-loss":
            next(words, None)
        elif not word.startswith("--max-loss="):
            kept.append(word)
    return shlex.join(["foundry", *kept])


def _confirm(made: Plan, fetch_bytes: int, *, yes: bool, as_json: bool) -> None:
    """Say what it takes; ask where somebody is there and a download of size comes first. Raises InsufficientMemory."""
    from localfoundry.build.compilation import require_memory

    if not as_json:
        _say(made, fetch_bytes)
    require_memory(made)
    if fetch_bytes and not yes and not as_json and output.interactive() and not click.confirm("Go on?", default=True):
        raise click.Abort


def _say(made: Plan, fetch_bytes: int) -> None:
    steps = ", ".join(made.steps)
    fetched = f"{format_bytes(fetch_bytes)} to fetch; " if fetch_bytes else ""
    output.note(
        f"{made.name} from {made.source.words}: {made.target.words}, about {format_bytes(made.size_bytes)}; steps: "
        f"{steps}; {fetched}about {format_duration(made.seconds)}, then it is tried"
    )
    if not made.target.tried:
        output.note(f"warning: {made.target.device} was never tried with this product; the result is not checked here")


def _document(made: Plan, fetch_bytes: int) -> dict[str, Any]:
    return {
        "name": made.name,
        "source": made.source.words,
        "target": made.target.words,
        "options": made.target.options,
        "steps": list(made.steps),
        "fetchBytes": fetch_bytes,
        "sizeBytes": made.size_bytes,
        "diskBytes": made.disk_bytes,
        "freeDiskBytes": made.free_disk_bytes,
        "memoryBytes": made.memory_bytes,
        "freeMemoryBytes": made.free_memory_bytes,
        "fits": made.fits_disk and made.fits_memory,
        "seconds": round(made.seconds, 1),
    }


def _show_plan(made: Plan, fetch_bytes: int, as_json: bool) -> None:
    if as_json:
        output.document(_document(made, fetch_bytes))
        return
    output.data(f"{made.name} from {made.source.words}: {made.target.words}")
    output.data(f"Steps: {', '.join(made.steps)}, in about {format_duration(made.seconds)}.")
    if fetch_bytes:
        output.data(f"To fetch first: {format_bytes(fetch_bytes)}.")
    room = "enough" if made.fits_disk else "too little"
    output.data(f"Disk: {format_bytes(made.disk_bytes)} with what stays free, "
                f"{format_bytes(made.free_disk_bytes)} free, {room}; the result takes about "
                f"{format_bytes(made.size_bytes)}.")  # fmt: skip
    room = "enough" if made.fits_memory else "too little"
    output.data(
        f"Memory: about {format_bytes(made.memory_bytes)}, {format_bytes(made.free_memory_bytes)} free, {room}."
    )


def _show(manifest: Manifest, fresh: bool, checked: bool, as_json: bool) -> None:
    untried = f"it was not tried: foundry eval --fidelity {manifest.name}" if fresh and not checked else ""
    tell(manifest, {"made": fresh}, fresh=fresh, as_json=as_json, more=untried)


def _verify(found: Any, as_json: bool) -> None:
    if as_json:
        output.document(msgspec.to_builtins(found))
    else:
        for file in found.files:
            output.data(f"{'same' if file.same else 'DIFFERS'}  {file.name}")
        verdict = "the same bytes again" if found.same else "not the same bytes: see which files differ"
        output.data(f"{found.id}: {verdict}")
    if not found.same:
        raise SystemExit(1)
