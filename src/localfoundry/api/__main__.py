"""The service process: takes the lock, binds the port, reports to whoever started it, serves until it is told to stop.

What it reports is one line on standard output: `ready`, or the error that ended it. Then it lets go of that pipe, so
that nobody who reads the starter's output waits for the daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import psutil
import uvicorn
from filelock import BaseFileLock, Timeout

from localfoundry import __version__, config, instance
from localfoundry.api.app import create_app
from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.errors import DiskError, FoundryError, PortInUse, ServiceStartFailed
from localfoundry.service.service import Service
from localfoundry.store.store import Store

log = logging.getLogger("localfoundry.api")

_LOCK_WAIT_S = 2.0  # whoever asks whether a service runs holds the lock for a moment
_IDLE_CHECK_S = 1.0
_CUT_OFF_AFTER_S = 8  # workers have 5 s to end


def main() -> int:
    try:
        settings = _settings()
        _log_to_stderr(settings)
        lock = _lock(settings)
        instance.clear_stale(settings)
        catalog = Catalog.load(settings.catalog_file)
        listener = _bind(settings)
    except FoundryError as exc:
        os.write(1, instance.report_failure(exc))
        return exc.exit_code
    try:
        _run(_serve(settings, catalog, listener))
    except FoundryError as exc:  # from announcing it: nobody has been told "ready" yet
        os.write(1, instance.report_failure(exc))
        return exc.exit_code
    finally:
        instance.state_file(settings).unlink(missing_ok=True)
        lock.release()
    return 0


def _run(serving: object) -> None:
    assert asyncio.iscoroutine(serving)
    if sys.platform == "win32":
        asyncio.run(serving)
    else:
        import uvloop

        uvloop.run(serving)


async def _serve(settings: Settings, catalog: Catalog, listener: socket.socket) -> None:
    service = Service(settings, catalog, Store(settings.models_dir))
    closing: list[asyncio.Task[None]] = []

    def shutdown() -> None:
        """Take no more connections, and drain. A worker that still answers after that is ended, which ends its
        streams with an error event; the server's own timeout, which cuts them off, is for what then remains."""
        server.should_exit = True
        if not closing:
            closing.append(asyncio.create_task(service.close(settings.drain_timeout_s)))

    app = create_app(service, shutdown)
    options = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=65536,
        timeout_graceful_shutdown=settings.drain_timeout_s + _CUT_OFF_AFTER_S,
    )
    server = _Server(options)
    _on_signals(shutdown)
    _announce(settings, listener, service)
    stopper = asyncio.create_task(_stop_when_idle(service, shutdown)) if settings.idle_timeout_s else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if stopper is not None:
            stopper.cancel()
        await asyncio.gather(*closing)
        await service.close()
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
        import contextlib

        return contextlib.nullcontext()


def _announce(settings: Settings, listener: socket.socket, service: Service) -> None:
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    state = instance.ServiceState(
        os.getpid(), f"http://{host}:{port}", time.time(), __version__, str(service.socket_dir)
    )
    instance.write_state(settings, state)
    log.info("localfoundry %s listens on %s, models in %s", __version__, state.url, settings.models_dir)
    os.write(1, b"ready\n")
    os.dup2(2, 1)


async def _stop_when_idle(service: Service, shutdown: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_IDLE_CHECK_S)
        if not service.at_work and time.monotonic() - service.last_request > service.settings.idle_timeout_s:
            log.info("stopping: no request for %d s", service.settings.idle_timeout_s)
            shutdown()
            return


def _settings() -> Settings:
    parser = argparse.ArgumentParser(prog="localfoundry.api")
    for option in config.options():
        parser.add_argument(f"--{option.name.replace('_', '-')}", dest=option.name)
    return config.load(vars(parser.parse_args()))


def _log_to_stderr(settings: Settings) -> None:
    level = {"trace": logging.DEBUG, "debug": logging.DEBUG, "information": logging.INFO,
             "warning": logging.WARNING, "error": logging.ERROR}[settings.log_level]  # fmt: skip
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a full disk must not fill it further


def _lock(settings: Settings) -> BaseFileLock:
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        lock = instance.service_lock(settings)
        lock.acquire(timeout=_LOCK_WAIT_S)
    except Timeout:
        raise ServiceStartFailed("another service of this home is running", hint="foundry service status") from None
    except OSError as exc:
        raise DiskError(f"cannot write to {settings.run_dir}: {exc.strerror}") from exc
    return lock


def _bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises PortInUse naming who has the port, where the system tells."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # there, this option would let two services have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise PortInUse(
            f"port {settings.port} on {settings.host} cannot be used: {exc.strerror}{_holder(settings.port)}",
            hint="foundry service start --port 0   (a free port; `foundry service status` tells which)",
        ) from exc
    listener.setblocking(False)
    return listener


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"; process {connection.pid} ({psutil.Process(connection.pid).name()}) listens on it"
    except psutil.Error:
        pass
    return "; which process has it cannot be seen"


if __name__ == "__main__":
    sys.exit(main())
