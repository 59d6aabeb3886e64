"""The server: one event loop with the service and its HTTP interface, until a signal or a request ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from localfoundry.api import logs, traces
from localfoundry.api.app import create_app
from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.service.service import Service
from localfoundry.store.store import Store

log = logging.getLogger("localfoundry.api")

_IDLE_CHECK_S = 1.0
_CUT_OFF_AFTER_S = 8  # workers have 5 s to end


def run(settings: Settings, catalog: Catalog, listener: socket.socket, socket_dir: Path) -> None:
    """Serve on a bound socket; `socket_dir` holds the workers' sockets and is removed at the end."""
    serving = _serve(settings, catalog, listener, socket_dir)
    if sys.platform == "win32":
        asyncio.run(serving)
    else:
        import uvloop

        uvloop.run(serving)


async def _serve(settings: Settings, catalog: Catalog, listener: socket.socket, socket_dir: Path) -> None:
    service = Service(settings, catalog, Store(settings.models_dir), socket_dir)
    closing: list[asyncio.Task[None]] = []

    def shutdown() -> None:
        """Take no more connections, and drain. A worker that still answers after that is ended, which ends its
        streams with an error event; the server's own timeout, which cuts them off, is for what then remains."""
        server.should_exit = True
        if not closing:
            closing.append(asyncio.create_task(service.close(settings.drain_timeout_s)))

    tracing = traces.begin(settings, service)
    app = create_app(service, shutdown, [*logs.access(settings), *tracing])
    options = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=65536,
        timeout_graceful_shutdown=settings.drain_timeout_s + _CUT_OFF_AFTER_S,
    )
    server = _Server(options)
    _on_signals(shutdown)
    stopper = asyncio.create_task(_stop_when_idle(service, shutdown)) if settings.idle_timeout_s else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if stopper is not None:
            stopper.cancel()
        await asyncio.gather(*closing)
        await service.close()
        for one in tracing:
            await asyncio.to_thread(one.close)
        log.info("stopped")


def _on_signals(shutdown: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
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
        if not service.at_work and time.monotonic() - service.last_request > service.settings.idle_timeout_s:
            log.info("stopping: no request for %d s", service.settings.idle_timeout_s)
            shutdown()
            return
