"""The command tree, and the one handler for errors on the command line.

Groups and commands are imported when they are used: a command pays only for itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from localfoundry.cli import output
from localfoundry.errors import FoundryError, UsageError

_LICENSE = "localfoundry is licensed under the Apache License 2.0. Models have licences of their own: foundry model info NAME --license"  # noqa: E501


class LazyGroup(click.Group):
    """A group whose commands are `module:attribute` until one is asked for. `aliases` are names not shown in help."""

    def __init__(
        self, *args: Any, lazy: Mapping[str, str] | None = None, aliases: Mapping[str, str] | None = None, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.lazy = dict(lazy or {})
        self.aliases = dict(aliases or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self.lazy]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = self.aliases.get(name, name)
        if name in self.lazy:
            module, attribute = self.lazy[name].split(":")
            command = getattr(importlib.import_module(f"localfoundry.cli.{module}"), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return (self.aliases.get(name, name) if name else name), command, rest


MODEL = {
    "list": "models:list_models",
    "search": "search:search_models",
    "info": "models:model_info",
    "run": "run:run_model",
    "chat": "run:chat",
    "download": "pull:download",
    "load": "loading:load",
    "unload": "loading:unload",
    "remove": "cache:remove",
    "versions": "versions:versions",
    "update": "versions:update",
    "pin": "versions:pin",
    "unpin": "versions:unpin",
    "rollback": "versions:rollback",
    "reencode": "reencode:reencode",
    "quantize": "quantize:quantize",
    "compile": "compile:compile_model",
    "benchmark": "bench_run:bench_run",
}
CACHE = {
    "list": "cache:list_cache",
    "location": "cache:location",
    "cd": "cache:change_location",
    "remove": "cache:remove",
    "clean": "clean:clean",
    "du": "space:du",
    "verify": "verify:verify",
}
SERVICE = {
    "start": "service:start",
    "stop": "service:stop",
    "restart": "service:restart",
    "status": "service:status",
    "ps": "service:ps",
    "logs": "logs:logs",
    "set": "service:set_settings",
    "diag": "diag:diag",
    "install": "install:install",
}
SERVER = {
    "start": "server:start",
    "stop": "service:stop",
    "restart": "service:restart",
    "status": "server:status",
    "logs": "logs:logs",
}
KEY = {
    "create": "key:create",
    "list": "key:list_keys",
    "revoke": "key:revoke",
}
BUNDLE = {
    "export": "bundle:export",
    "import": "bundle:import_file",
    "show": "bundle:show",
}
RESULTS = {
    "export": "results:export",
    "merge": "results:merge",
    "validate": "results:validate",
    "show": "results:show",
    "schema": "results:schema",
}
ENGINE = {
    "list": "engine:list_engines",
    "install": "engine_install:install",
    "use": "engine:use",
    "remove": "engine:remove",
}
TOP = {
    "run": "run:run_model",
    "chat": "run:chat",
    "complete": "run:complete",
    "bench": "bench:bench",
    "eval": "eval:evaluate",
    "compare": "compare:compare",
    "tune": "tune:tune",
    "rate": "rate:rate",
    "import": "adopt:import_models",
    "status": "server:status",
    "top": "top:top",
    "hardware": "hardware:hardware",
    "recommend": "recommend:recommend",
    "restart": "service:restart",
    "lock": "lock:lock",
    "sync": "lock:sync",
    "config": "config:config_group",
    "report": "diag:diag",
    "completion": "completion:completion",
}


@click.group(
    cls=LazyGroup,
    lazy=TOP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
)
@click.version_option(package_name="localfoundry", message="%(version)s")
@click.option("--license", is_flag=True, help="Show the licence of this program.")
@click.option("--offline", is_flag=True, help="Use no network in this command; FOUNDRY_OFFLINE=1 does the same.")
@click.pass_context
def cli(ctx: click.Context, license: bool, offline: bool) -> None:
    """Find the right open language model for this machine, get it safely, run it, and prove the choice."""
    if offline:
        os.environ["FOUNDRY_OFFLINE"] = "1"
    if license:
        output.data(_LICENSE)
    elif ctx.invoked_subcommand is None:
        output.data(ctx.get_help())


@cli.group(
    "model",
    cls=LazyGroup,
    lazy=MODEL,
    aliases={"ls": "list", "catalog": "list", "pull": "download", "stop": "unload", "rm": "remove", "stats": "info"},
)
def model_group() -> None:
    """List, find, download and run models."""


@cli.group("cache", cls=LazyGroup, lazy=CACHE, aliases={"ls": "list", "rm": "remove"})
def cache_group() -> None:
    """Models on this disk."""


@cli.group("service", cls=LazyGroup, lazy=SERVICE, aliases={"list": "ps"})
def service_group() -> None:
    """The local service behind the API."""


@cli.group("server", cls=LazyGroup, lazy=SERVER)
def server_group() -> None:
    """The local service, in the forms of Foundry Local 0.10 and later."""


@cli.group("engine", cls=LazyGroup, lazy=ENGINE, aliases={"ls": "list", "rm": "remove"})
def engine_group() -> None:
    """What runs models: engines, and llama.cpp built for this machine."""


@cli.group("key", cls=LazyGroup, lazy=KEY, aliases={"ls": "list", "rm": "revoke"})
def key_group() -> None:
    """API keys of the service: who may use it, for what and how much."""


@cli.group("bundle", cls=LazyGroup, lazy=BUNDLE)
def bundle_group() -> None:
    """Models as one file, for machines without a network."""


@cli.group("results", cls=LazyGroup, lazy=RESULTS)
def results_group() -> None:
    """Share what was measured and rated: models.json, out of this machine, checked, and merged."""


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status; 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an old console must not turn a symbol into a crash
    try:
        result = cli.main(arguments, prog_name="foundry", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except FoundryError as exc:
        output.failure(exc)
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.note("")
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
