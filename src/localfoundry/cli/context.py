"""What commands start from: settings, catalog, store, service; and the options that several of them share."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from localfoundry import config
from localfoundry.catalog.lookup import Catalog
from localfoundry.cli import output
from localfoundry.config import Settings
from localfoundry.errors import InvalidSetting, ServiceNotRunning, UsageError
from localfoundry.store.store import Store
from localfoundry.units import parse_tokens

if TYPE_CHECKING:
    from localfoundry.client import ServiceClient
    from localfoundry.store.manifest import Manifest

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def settings(**overrides: object) -> Settings:
    return config.load(overrides)


def usable_settings() -> Settings:
    """As `settings`, but where the file is wrong, that is told and the rest counts: a service can be running."""
    try:
        return config.load()
    except InvalidSetting as exc:
        given = config.load(text="{}")
        output.note(f"the settings file is not in force: {exc.message}")
        output.note("  a running service keeps the settings from before; mend it: foundry config edit")
        return given


def catalog(given: Settings) -> Catalog:
    return Catalog.load(given.catalog_file)


def store(given: Settings) -> Store:
    return Store(given.models_dir)


def cached(given: Settings, name: str) -> Manifest | None:
    """The cached version that a name, an alias or a tutorial name stands for."""
    disk = store(given)
    found = disk.find(name)
    if found is None:
        entry = catalog(given).find(name)
        if entry is not None:
            found = disk.find(entry[1].name if entry[1] else entry[0].alias)
    return found


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: among the values of 100,000 models it finds none, and looks again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def with_service(given: Settings, work: Callable[[ServiceClient], Coroutine[Any, Any, T]]) -> T:
    """Run `work` with a client of the running service. Raises ServiceNotRunning."""
    import asyncio

    from localfoundry import instance
    from localfoundry.client import ServiceClient

    state = instance.running(given)
    if state is None:
        raise ServiceNotRunning

    async def call() -> T:
        async with ServiceClient(state) as client:
            return await work(client)

    return asyncio.run(call())


class _TokenCount(click.ParamType[int]):
    name = "TOKENS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_tokens(value)
        except ValueError as exc:
            command = f"{ctx.command_path} --ctx 8k" if ctx else "--ctx 8k"
            raise UsageError(f"--ctx: {exc}", hint=command, param="ctx") from None


TOKENS = _TokenCount()  # `8k`, `32768`


def json_option(command: F) -> F:
    """`--json`, and `-o json` as the second generation writes it; the command gets `as_json`."""

    def merge(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value == "json":
            ctx.params["as_json"] = True

    command = click.option(
        "-o",
        "--output",
        type=click.Choice(["json", "text"]),
        callback=merge,
        expose_value=False,
        help="Form of output.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, is_eager=True, help="Print JSON.")(command)
