"""`foundry server …` and `foundry status`: the second generation's words for the same service."""

from __future__ import annotations

import click

from localfoundry import instance
from localfoundry.cli import context, loaded, output, service
from localfoundry.units import format_duration


@click.command()
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--idle-timeout", type=click.IntRange(0), help="Minutes without a request until it stops; 0 never.")
@click.option("--log-level", help="trace, debug, information, warning or error.")
@service.insecure_option
def start(port: int | None, idle_timeout: int | None, log_level: str | None, insecure: bool) -> None:
    """Start the service."""
    seconds = None if idle_timeout is None else idle_timeout * 60
    service.started(context.settings(port=port, idle_timeout_s=seconds, log_level=log_level), insecure=insecure)


@click.command()
@context.json_option
def status(as_json: bool) -> None:
    """Tell whether the service runs, where, and what is loaded."""
    given = context.usable_settings()
    found = service.status_document(given)
    if as_json:
        output.document(found)
        return
    if not found["running"]:
        output.data("Service: stopped")
    else:
        told = context.with_service(given, loaded.ask)
        uptime = format_duration(told.stats["uptime_s"])
        output.data(f"Service: running on {found['webUrls'][0]} (process {found['pid']}, up {uptime})")
        output.data("Loaded:  " + (", ".join(loaded.in_words(model) for model in told.models) or "nothing"))
        output.data(f"Memory:  {loaded.ledger(told.stats['memory'])}")
        state = instance.running(given)
        for line in service.exposure(state) if state else ():
            output.data("Access:  " + line)
    output.data(f"Models:  {len(context.store(given).manifests())} cached in {given.models_dir}")
