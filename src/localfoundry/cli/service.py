"""`foundry service …`: the daemon. The words that programs parse are in foundry-contract order; keep them."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

import click

from localfoundry import config, instance
from localfoundry.cli import context, output
from localfoundry.config import Settings
from localfoundry.errors import UsageError
from localfoundry.instance import ServiceState

_STOPPED = "🔴 Service is stopped."
_STOP_MARGIN_S = 15.0


def started(given: Settings) -> ServiceState:
    """Start the service where it does not run, saying so as scripts expect, and return where it is."""
    state, new = instance.start(given)
    if new:
        output.data(f"🟢 Service is Started on {state.url}/, PID {state.pid}!")
    else:
        output.data(f"🟢 Service is already running on {state.url}/.")
    return state


def stop_running(given: Settings) -> bool:
    """Stop the service and wait until it is gone; False where none runs. Ends a service that does not listen."""
    state = instance.running(given)
    if state is None:
        return False
    try:
        os.kill(state.pid, signal.SIGTERM)
        if not instance.wait_stopped(given, given.drain_timeout_s + _STOP_MARGIN_S):
            output.note(f"process {state.pid} did not end in time and is killed")
            os.kill(state.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            instance.wait_stopped(given, _STOP_MARGIN_S)
    except ProcessLookupError:
        instance.wait_stopped(given, 1.0)
    return True


@click.command()
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--host", help="Address to listen on.")
def start(port: int | None, host: str | None) -> None:
    """Start the service."""
    started(context.settings(port=port, host=host))


@click.command()
def stop() -> None:
    """Stop the service. Answers in flight are finished first, for a while."""
    stop_running(context.settings())
    output.data(_STOPPED)


@click.command()
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
def restart(port: int | None) -> None:
    """Stop the service and start it again."""
    given = context.settings(port=port)
    output.data("Restarting service...")
    if stop_running(given):
        output.data(_STOPPED)
    started(given)


def status_document(given: Settings) -> dict[str, Any]:
    state = instance.running(given)
    if state is None:
        return {"running": False, "state": "stopped"}
    return {"running": True, "state": "ready", "pid": state.pid, "webUrls": [state.url]}


@click.command()
@context.json_option
def status(as_json: bool) -> None:
    """Tell whether the service runs, and where."""
    given = context.settings()
    state = instance.running(given)
    if as_json:
        output.document(status_document(given))
    elif state is not None:
        output.data(f"🟢 Model management service is running on {state.url}/openai/status")
    else:
        output.data("🔴 Model management service is not running!")
        output.data("To start the service, run the following command: foundry service start")


@click.command()
@context.json_option
@click.option("--verbose", "-v", is_flag=True, help="Add engine, state, memory, context and time to live.")
def ps(as_json: bool, verbose: bool) -> None:
    """List the models that are loaded."""
    given = context.settings()
    models: list[dict[str, Any]] = []
    if instance.running(given) is not None:
        models = context.with_service(given, lambda client: client.get("/foundry/ps"))
    if as_json:
        output.document({"models": models})
    elif not models:
        output.data("No models are currently loaded in the service")
    else:
        output.data("Models running in service:")
        output.data(f"    {'Alias':<30} Model ID")
        for model in models:
            output.data(f"🟢  {model['alias']:<30} {model['id']}")
            if verbose:
                output.data(f"    {_details(model)}")


def _details(model: dict[str, Any]) -> str:
    from localfoundry.units import format_bytes, format_duration

    left = model["ttl_left_s"]
    parts = [
        f"{model['engine']} on {model['device']}",
        model["state"],
        f"{format_bytes(model['memory']['process'])} in use",
        f"context {model['context']}",
        f"{model['requests_running']} requests",
        f"unloaded in {format_duration(left)}" if left is not None else "stays loaded",
    ]
    return ", ".join(parts)


@click.command()
@click.argument("model", required=False)
@click.option("--lines", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
def logs(model: str | None, lines: int) -> None:
    """Show the service's log, or a model's worker's."""
    given = context.settings()
    file = given.log_dir / "service.log"
    if model is not None:
        found = context.cached(given, model)
        file = given.log_dir / f"worker-{found.name if found else model}.log"
    try:
        with file.open(encoding="utf-8", errors="replace") as source:
            for line in deque(source, lines):
                output.data(line, end="")
    except FileNotFoundError:
        raise UsageError(f"there is no log {file}", hint="foundry service start") from None


@click.command("set")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--cachedir", type=click.Path(path_type=Path), help="Folder that holds the models.")
@click.option("--default-log-level", "log_level", help="trace, debug, information, warning or error.")
@click.option("--ttl", "model_ttl_s", type=int, help="Seconds after which an idle model is unloaded; 0 never.")
@click.option("--llama-server", help="`auto`, `bundled`, or the path of a native llama-server.")
@click.option("--show", is_flag=True, help="Print the settings as JSON.")
def set_settings(cachedir: Path | None, show: bool, **changes: object) -> None:
    """Change settings; a running service is restarted with them."""
    given = context.settings()
    changed = {name: value for name, value in (changes | {"cache_dir": cachedir}).items() if value is not None}
    if changed:
        output.data("Saving new settings")
        config.save(given.file, changed)
        given = context.settings()
        if instance.running(given) is not None:
            output.data("Restarting service...")
            stop_running(given)
            output.data(_STOPPED)
            started(given)
    if show or not changed:
        output.document(settings_document(given))


def settings_document(given: Settings) -> dict[str, object]:
    """Settings in the form of Foundry Local's `service set --show`, with ours after theirs."""
    levels = {"trace": 0, "debug": 1, "information": 2, "warning": 3, "error": 4}
    service: dict[str, object] = {
        "host": given.host,
        "port": given.port,
        "cacheDirectoryPath": str(given.models_dir),
        "schema": "http",
        "defaultSecondsForModelTTL": given.model_ttl_s,
    }
    theirs = {"host", "port", "cache_dir", "model_ttl_s", "log_level", "home"}
    for option in config.options():
        if option.name not in theirs:
            value = getattr(given, option.name)
            service[option.metadata["key"]] = str(value) if isinstance(value, Path) else value
    return {"defaultLogLevel": levels[given.log_level], "serviceSettings": service}


@click.command()
@context.json_option
def show_config(as_json: bool) -> None:
    """Print the settings that are in force, as JSON."""
    output.document(settings_document(context.settings()))


@click.command()
@click.option("--logs", "with_logs", is_flag=True, help="Add the last lines of the service's log.")
@context.json_option
def diag(as_json: bool, with_logs: bool) -> None:
    """Report on versions, folders, service, models and disk: what to send with a question."""
    given = context.settings()
    report = _report(given)
    if with_logs:
        log = given.log_dir / "service.log"
        report["log"] = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
    if as_json:
        output.document(report)
        return
    for key, value in report.items():
        if isinstance(value, list):
            output.data(f"{key}:")
            for line in value:
                output.data(f"    {line}")
        else:
            output.data(f"{key + ':':<12} {value}")


def _report(given: Settings) -> dict[str, Any]:
    import platform
    import shutil

    import psutil

    from localfoundry import __version__
    from localfoundry.units import format_bytes

    store = context.store(given)
    state = instance.running(given)
    place = next(p for p in (given.models_dir, *given.models_dir.parents) if p.exists())
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "memory": f"{format_bytes(psutil.virtual_memory().available)} of "
        f"{format_bytes(psutil.virtual_memory().total)} free",
        "home": str(given.home),
        "models": f"{len(store.manifests())} in {given.models_dir}",
        "disk": f"{format_bytes(shutil.disk_usage(place).free)} free",
        "service": f"{state.url}, process {state.pid}, up {time.time() - state.started_at:.0f} s"
        if state
        else "stopped",
        "damaged": [str(damaged) for damaged in store.damaged()],
    }
