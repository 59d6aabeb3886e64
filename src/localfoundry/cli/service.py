"""`foundry service …`: the daemon. The words that programs parse are in foundry-contract order; keep them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import click

from localfoundry import config, instance
from localfoundry.cli import context, loaded, output
from localfoundry.cli.loaded import why
from localfoundry.config import Settings, model_defaults
from localfoundry.instance import ServiceState

_STOPPED = "🔴 Service is stopped."
_STOP_MARGIN_S = 15.0

insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Let everyone who can reach the service use its models without an API key.",
)


def started(given: Settings, *, insecure: bool = False) -> ServiceState:
    """Start the service where it does not run, saying so as scripts expect, and return where it is."""
    state, new = instance.start(given, insecure=insecure)
    if new:
        output.data(f"🟢 Service is Started on {state.url}/, PID {state.pid}!")
    else:
        output.data(f"🟢 Service is already running on {state.url}/.")
    for line in exposure(state):
        output.note(line)
    return state


def exposure(state: ServiceState) -> list[str]:
    """What whoever looks at the service should know about who can reach it; nothing for this machine alone."""
    if state.insecure:
        return [f"INSECURE: whoever can reach {state.host} uses the models without a key (--insecure)"]
    return [f"API keys are required at {state.host} (foundry key list)"] if state.keys_required else []


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
@click.option("--foreground", is_flag=True, help="Be the service instead of starting one; it logs to standard error.")
@insecure_option
def start(port: int | None, host: str | None, foreground: bool, insecure: bool) -> int:
    """Start the service."""
    flags = {"port": port, "host": host}
    if foreground:
        from localfoundry.api.__main__ import serve

        return serve(flags, foreground=True, insecure=insecure)
    started(context.settings(**flags), insecure=insecure)
    return 0


@click.command()
def stop() -> None:
    """Stop the service. Answers in flight are finished first, for a while."""
    stop_running(context.usable_settings())
    output.data(_STOPPED)


@click.command()
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@insecure_option
def restart(port: int | None, insecure: bool) -> None:
    """Stop the service and start it again."""
    given = context.settings(port=port)
    output.data("Restarting service...")
    if stop_running(given):
        output.data(_STOPPED)
    started(given, insecure=insecure)


def status_document(given: Settings) -> dict[str, Any]:
    state = instance.running(given)
    if state is None:
        return {"running": False, "state": "stopped"}
    document = {"running": True, "state": "ready", "pid": state.pid, "webUrls": [state.url]}
    if state.insecure or state.keys_required:
        document |= {"host": state.host, "keysRequired": state.keys_required, "insecure": state.insecure}
    return document


@click.command()
@context.json_option
def status(as_json: bool) -> None:
    """Tell whether the service runs, and where."""
    given = context.usable_settings()
    state = instance.running(given)
    if as_json:
        output.document(status_document(given))
    elif state is not None:
        output.data(f"🟢 Model management service is running on {state.url}/openai/status")
        for line in exposure(state):
            output.data(line)
    else:
        output.data("🔴 Model management service is not running!")
        output.data("To start the service, run the following command: foundry service start")


@click.command()
@context.json_option
@click.option(
    "--verbose",
    "-v",
    is_flag=True,
    help="A table (engine, state, memory, context, requests, speed), and why each engine.",
)
def ps(as_json: bool, verbose: bool) -> None:
    """List the models that are loaded."""
    given = context.settings()
    models: list[dict[str, Any]] = []
    preparing: list[dict[str, Any]] = []
    if instance.running(given) is not None:
        told = context.with_service(given, loaded.ask)
        models, preparing = told.models, told.stats["preparing"]
    if as_json:
        output.document({"models": models, "preparing": preparing})
        return
    for one in preparing:
        output.note(f"{one['id']} is being loaded: {one['words']}")
    if not models:
        output.data("No models are currently loaded in the service")
    elif verbose:
        output.table(*loaded.table(models))
        for model in models:
            output.note(why(model))
    else:
        output.data("Models running in service:")
        output.data(f"    {'Alias':<30} Model ID")
        for model in models:
            output.data(f"🟢  {model['alias']:<30} {model['id']}")


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
        "schema": "https" if given.tls_certificate else "http",
        "defaultSecondsForModelTTL": given.model_ttl_s,
    }
    theirs = {"host", "port", "cache_dir", "model_ttl_s", "log_level", "home"}
    for option in config.options():
        if option.name not in theirs:
            value = getattr(given, option.name)
            service[option.metadata["key"]] = str(value) if isinstance(value, Path) else value
    models = {name: model_defaults.by_key(values) for name, values in given.models.items()}
    document = {"defaultLogLevel": levels[given.log_level], "serviceSettings": service}
    return document | ({"models": models} if models else {})
