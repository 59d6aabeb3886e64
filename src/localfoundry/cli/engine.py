"""`foundry engine list | use | remove`: the engines of this installation, and the builds of llama.cpp among them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import click

from localfoundry import config
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import EngineInUse, InvalidSetting, UnknownEngine
from localfoundry.units import format_bytes, format_duration

LLAMA = "llama.cpp"
_COLUMNS = ("ENGINE", "VERSION", "FROM", "DEVICES", "STATUS")


@click.command("list")
@context.json_option
def list_engines(as_json: bool) -> None:
    """Show the engines: where each is from, which is in use or why not, and a build that is being made."""
    given = context.settings()
    rows, build = [*_llama(given), *_others(given)], _job(given)
    if as_json:
        output.document({"engines": rows, "build": build})
        return
    output.table(_COLUMNS, [[r["engine"], r["version"], r["from"], ", ".join(r["devices"]), r["status"]] for r in rows])
    if build is not None and build["words"]:
        output.note(build["words"])


def _row(engine: str, version: str, origin: str, devices: tuple[str, ...], status: str, **more: Any) -> dict[str, Any]:
    return {"engine": engine, "version": version, "from": origin, "devices": list(devices), "status": status, **more}


def _llama(given: Settings) -> list[dict[str, Any]]:
    """The bundled one, each build, and one on the PATH or from the settings."""
    from localfoundry.build import installed
    from localfoundry.engines.llama_cpp import LlamaCpp

    problem, server = "", None
    try:
        server = LlamaCpp.native_server(given)
    except InvalidSetting as exc:
        problem = f"not used: {exc.message}"
    rows = []
    for build in installed.builds(given):
        own = installed.program(given, build, "llama-server")
        why_not = installed.why_not(given, build)
        status = "in use" if own == server else f"cannot run here: {why_not}" if why_not else "installed"
        devices = ("CPU",) if build.gpu == "cpu" else ("CPU", build.gpu.upper())
        rows.append(_row(LLAMA, build.version, build.name, devices, status, told=build.told, sizeBytes=build.size_bytes,
                         builtAt=build.built_at, buildSeconds=build.seconds))  # fmt: skip
    found = shutil.which("llama-server")
    others = dict.fromkeys([str(server)] if server and all(r["status"] != "in use" for r in rows) else [])
    for path in dict.fromkeys([*others, *([found] if found else [])]):
        status = "in use" if Path(path) == server else "installed"
        rows.append(_row(LLAMA, "native", path, ("CPU",), status))
    return [*rows, _bundled(server is None and not problem, problem)]


def _bundled(in_use: bool, problem: str) -> dict[str, Any]:
    import importlib.metadata

    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return _row(LLAMA, "", "bundled", (), "not installed: pip install xllamacpp")
    return _row(LLAMA, version, "bundled", ("CPU",), "in use" if in_use else problem or "installed")


def _others(given: Settings) -> list[dict[str, Any]]:
    from localfoundry.engines import engines

    rows = []
    for engine in engines():
        if engine.name == LLAMA or engine.name.startswith("fake"):
            continue
        missing = engine.missing()
        version = "" if missing else engine.version(given)
        rows.append(_row(engine.name, version, "" if missing else "package", tuple(sorted(engine.devices)),
                         missing or "installed"))  # fmt: skip
    return rows


def _job(given: Settings) -> dict[str, Any] | None:
    """The build that is being made, or what became of the last one."""
    from localfoundry.build import native_job

    state = native_job.state(given)
    if state is None:
        return None
    running = native_job.running(given)
    return {
        "running": running,
        "stage": state.stage,
        "share": state.share,
        "name": state.name,
        "error": state.error,
        "hint": state.hint,
        "log": str(native_job.log_file(given)),
        "words": _job_words(state, running, native_job.log_file(given)),
    }


def _job_words(state: Any, running: bool, log: Path) -> str:
    if running:
        share = f", {state.share:.0%}" if state.stage == "compiling" else ""
        since = format_duration(max(0.0, time.time() - state.started_at))
        return f"building {LLAMA}: {state.stage}{share}, for {since}; log: {log}"
    if state.stage == "failed":
        return f"the last build failed: {state.error}\n  {state.hint or ''}\n  log: {log}".replace("\n  \n", "\n")
    if state.stage == "done":
        return ""
    again = f"foundry engine install {LLAMA} --native"
    return f"a build was interrupted at {state.stage}; to go on: {again}; to give it up: {again} --cancel"


@click.command("use")
@click.argument("engine", metavar="ENGINE")
@click.argument("which", metavar="NAME|bundled|auto|PATH")
@context.json_option
def use(engine: str, which: str, as_json: bool) -> None:
    """Choose which llama.cpp runs models: a build that `engine list` shows, the bundled one, or a program.

    A running service takes it for the next load; models that are loaded stay as they are.
    """
    from localfoundry.engines.llama_cpp import LlamaCpp

    _require(engine)
    given = context.settings()
    LlamaCpp.native_server(config.load({"llama_server": which}))  # raises InvalidSetting where it cannot be used
    config.save(given.file, {"llama_server": which})
    changed = config.load()
    if changed.llama_server != which:
        output.note(f"warning: FOUNDRY_LLAMA_SERVER is set and wins: {changed.llama_server}")
    if as_json:
        output.document({"engine": engine, "use": which, "file": str(given.file)})
        return
    output.data(f"{engine} for the next load: {which}")


@click.command("remove")
@click.argument("engine", metavar="ENGINE")
@click.argument("name", metavar="NAME")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@context.json_option
def remove(engine: str, name: str, yes: bool, as_json: bool) -> None:
    """Remove a build of an engine and free its disk space."""
    from localfoundry.build import installed
    from localfoundry.store import disk

    _require(engine)
    given = context.settings()
    build = installed.named(given, name)
    if build is None:
        known = ", ".join(b.name for b in installed.builds(given)) or "none is installed"
        raise UnknownEngine(f"there is no build {name[:60]} of {engine}: {known}", hint="foundry engine list")
    _refuse_in_use(given, name)
    size = format_bytes(disk.tree_bytes(installed.folder(given, build)))
    if not yes and output.interactive() and not click.confirm(f"Remove {engine} {name}, {size}?"):
        return
    with disk.writing(installed.folder(given, build)):
        freed = disk.remove_tree(installed.folder(given, build))
    if given.sources.get("llama_server") == "file" and given.llama_server == name:
        config.save(given.file, {"llama_server": None})
        output.note(f"the setting llamaServer named it and is {config.load().llama_server} now")
    if as_json:
        output.document({"engine": engine, "removed": name, "freedBytes": freed})
        return
    output.data(f"Removed {engine} {name}, {format_bytes(freed)} free again.")


def _require(engine: str) -> None:
    if engine.lower() not in (LLAMA, "llama", "llama-cpp"):
        raise UnknownEngine(f"{engine[:60]} has no builds to choose from: only {LLAMA} has", hint="foundry engine list")


def _refuse_in_use(given: Settings, name: str) -> None:
    """Raise EngineInUse where a process runs a program of the build; the service's models are named."""
    import psutil

    from localfoundry.build import installed

    place = (installed.root(given) / name).resolve()
    for process in psutil.process_iter(["exe", "cmdline"]):
        words = process.info["cmdline"] or []
        program = next((w for w in (process.info["exe"], *words[:5]) if w and Path(w).is_relative_to(place)), None)
        if program is not None:
            model = words[words.index("--alias") + 1] if "--alias" in words[:-1] else None
            raise EngineInUse(
                f"{model or Path(program).name} runs on {name}",
                hint=f"foundry model unload {model}" if model else f"end process {process.pid}",
            )
