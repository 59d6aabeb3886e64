"""The server: one event loop with the service and its HTTP interface, until a signal or a request ends it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from localfoundry.access.bind import Bind
from localfoundry.api import logs, traces
from localfoundry.api.app import create_app
from localfoundry.api.connection import Bounds, Connection
from localfoundry.api.gate import Gate
from localfoundry.api.live_settings import LiveSettings, Refreshed
from localfoundry.api.notify import notify
from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.instance import at_terminal
from localfoundry.service.service import Service
from localfoundry.store.store import Store

log = logging.getLogger("localfoundry.api")

_IDLE_CHECK_S = 1.0
_CUT_OFF_AFTER_S = 8  # workers have 5 s to end


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Be the server until it stops."""
    if sys.platform == "win32":
        asyncio.run(serving)
    else:
        import uvloop

        uvloop.run(serving)


async def serve(
    settings: Settings,
    catalog: Catalog,
    listener: socket.socket,
    socket_dir: Path,
    bind: Bind,
    tls: ssl.SSLContext | None,
    again: Callable[[], Settings],
    stop_asked: threading.Event,
) -> None:
    """Serve on a bound socket; `socket_dir` holds the workers' sockets and is removed at the end.

    `again` reads the settings as they were read for the start, the file anew. `stop_asked`: by a signal that came
    before there was anything to drain.
    """
    service = Service(settings, catalog, Store(settings.models_dir), socket_dir)
    closing: list[asyncio.Task[None]] = []

    def shutdown() -> None:
        """Take no more connections, and drain. A worker that still answers after that is ended, which ends its
        streams with an error event; the server's own timeout, which cuts them off, is for what then remains."""
        server.should_exit = True
        if not closing:
            notify("STOPPING=1")
            drain_s = service.settings.drain_timeout_s
            options.timeout_graceful_shutdown = drain_s + _CUT_OFF_AFTER_S
            closing.append(asyncio.create_task(service.close(drain_s)))

    tracing = traces.begin(settings, service)
    gate = Gate(settings, bind)
    live = LiveSettings(service, again)
    app = Refreshed(create_app(service, shutdown, [*logs.access(settings), *tracing], gate=gate), live)
    bounds = Bounds(settings.request_timeout_s, settings.slow_reader_timeout_s, settings.max_connections)
    connection: Any = functools.partial(Connection, bounds)
    options = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        http=connection,
        ws="none",
        ssl_context_factory=(lambda *_: tls) if tls is not None else None,
    )
    server = _Server(options)
    _on_signals(shutdown, live.reload)
    if stop_asked.is_set():
        shutdown()
    watching = [asyncio.create_task(live.watch()), asyncio.create_task(_stop_when_idle(service, shutdown))]
    gate.opened()
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*closing)
        await service.close()
        for one in tracing:
            await asyncio.to_thread(one.close)
        log.info("stopped")


def _on_signals(shutdown: Callable[[], None], reload: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        # A service in the foreground ends with its terminal, any other has none and reads its settings again.
        loop.add_signal_handler(signal.SIGHUP, shutdown if at_terminal() else reload)
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":  # its loop has no signal handlers
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(shutdown))
        else:
            loop.add_signal_handler(number, shutdown)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it would raise the signal again after the shutdown."""

    def capture_signals(self):  # type: ignore[no-untyped-def]
        return contextlib.nullcontext()


async def _stop_when_idle(service: Service, shutdown: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_IDLE_CHECK_S)
        limit_s = service.settings.idle_timeout_s
        if limit_s and not service.at_work and time.monotonic() - service.last_request > limit_s:
            log.info("stopping: no request for %d s", limit_s)
            shutdown()
            return
