"""`foundry top`: what the service does right now, drawn again every second until `q` or Ctrl-C.

Everything shown comes from `/foundry/ps` and `/foundry/stats`, but for the machine's processor, which is measured here.
A service that stops, or starts, while this looks on is told as such; it is never started by looking.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from localfoundry.cli import context, loaded, output
from localfoundry.cli.loaded import Told
from localfoundry.config import Settings
from localfoundry.errors import ServiceError
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_REFRESH_S = 1.0
_CPU_LOOK_S = 0.1  # a share of a time needs a time
_BAR = 30
_QUIT = ("q", "Q", "c-c", "c-d", "escape")


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end; so does output that is not a terminal.")
@context.json_option
def top(as_json: bool, once: bool) -> None:
    """Watch the service: models, requests, tokens, waiting times, memory, processor. `q` ends it."""
    import asyncio

    given = context.settings()
    if as_json:
        output.document(document(asyncio.run(_told(given)), _cpu_percent(_CPU_LOOK_S)))
    elif once or not sys.stdout.isatty():
        _print(asyncio.run(_told(given)), _cpu_percent(_CPU_LOOK_S))
    else:
        asyncio.run(_watch(given))


def document(told: Told | None, cpu_percent: float) -> dict[str, Any]:
    """One look as JSON. `cpu_percent`: of the whole machine, 100 with every processor at work."""
    if told is None:
        return {"running": False, "models": [], "stats": None, "cpu_percent": cpu_percent}
    return {"running": True, "models": told.models, "stats": told.stats, "cpu_percent": cpu_percent}


def frame(told: Told | None, cpu_percent: float, columns: int) -> Group:
    """One look as text, in so many characters a line."""
    from rich.console import Group
    from rich.text import Text

    if told is None:
        return Group(Text("The service is not running. To start it: foundry service start"))
    return Group(_figures(told.stats, cpu_percent), Text(), _models(told.models, columns))


def _figures(stats: dict[str, Any], cpu_percent: float) -> Text:
    from rich.text import Text

    to_first = stats["time_to_first_token_s"]
    memory = stats["memory"]
    first = "no request in the last minute"
    if to_first["n"]:
        first = f"p50 {format_duration(to_first['p50'])}, p95 {format_duration(to_first['p95'])} of {to_first['n']}"
    lines = {
        "Service": f"{stats['version']}, process {stats['pid']}, up {format_duration(stats['uptime_s'])}, "
        f"{format_bytes(memory['service'])}",
        "Requests": f"{stats['requests_per_s']:.2f}/s, {stats['requests_running']} running, "
        f"{stats['requests_waiting']} waiting, {stats['failed_per_s']:.2f}/s failed",
        "Tokens": f"{stats['tokens_per_s']:.1f}/s now, {stats['completion_tokens_per_s']:.1f}/s in the last "
        f"{stats['window_s']:.0f} s",
        "First token": first,
        "Memory": _bar(memory),
        "": loaded.ledger(memory),
        "Processor": f"{cpu_percent:.0f} % of the machine",
    }
    return Text("\n".join(f"{name + ':' if name else '':<13}{words}" for name, words in lines.items()))


def _bar(memory: dict[str, int]) -> str:
    """Granted to models, then used by others, of the limit."""
    limit = max(memory["limit"], 1)
    granted = min(round(_BAR * memory["claimed"] / limit), _BAR)
    others = min(round(_BAR * memory["others"] / limit), _BAR - granted)
    return f"[{'#' * granted}{'+' * others}{'.' * (_BAR - granted - others)}]"


def _models(models: list[dict[str, Any]], columns: int) -> Text:
    from rich.text import Text

    if not models:
        return Text("No models are currently loaded in the service")
    return Text("\n".join(output.folded(*loaded.table(models), columns)), no_wrap=True)


def _print(told: Told | None, cpu_percent: float) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(frame(told, cpu_percent, console.width))


async def _told(given: Settings) -> Told | None:
    """What the service says; None where there is none, or it is ending and takes no more connections."""
    from localfoundry import instance
    from localfoundry.client import ServiceClient

    state = instance.running(given)
    if state is None:
        return None
    try:
        async with ServiceClient(state) as client:
            return await loaded.ask(client)
    except ServiceError:
        return None


async def _watch(given: Settings) -> None:
    import asyncio

    from prompt_toolkit.input import create_input
    from rich.console import Console
    from rich.live import Live

    ended = asyncio.get_running_loop().create_future()
    keys = create_input()

    def pressed() -> None:
        quits = any(str(getattr(press.key, "value", press.key)) in _QUIT for press in keys.read_keys())
        if (quits or keys.closed) and not ended.done():
            ended.set_result(None)

    _cpu_percent(None)
    console = Console(highlight=False)
    with keys.raw_mode(), keys.attach(pressed), Live(console=console, screen=True, auto_refresh=False) as live:
        while not ended.done():
            look = asyncio.create_task(_told(given))
            await asyncio.wait(
                [look, ended], return_when=asyncio.FIRST_COMPLETED
            )  # a service that hangs must not keep us
            if look.done():
                live.update(frame(look.result(), _cpu_percent(None), console.width), refresh=True)
                await asyncio.wait([ended], timeout=_REFRESH_S)
            else:
                look.cancel()


def _cpu_percent(look_s: float | None) -> float:
    """Of the whole machine: over `look_s`, or since the call before."""
    import psutil

    return psutil.cpu_percent(look_s)
