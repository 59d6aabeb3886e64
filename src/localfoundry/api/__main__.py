"""The service process: takes the lock, binds the port, reports to whoever started it, and only then becomes a server.

Started in the background, what it reports is one line on standard output: `ready`, or the error that ended it. Then it
lets go of that pipe, so that nobody who reads the starter's output waits for the daemon. From `ready` on, connections
queue at the port while the server itself is still being imported, which takes most of the start.

In the foreground (`--foreground`: for systemd and its like, containers, debugging) it tells the service manager
instead, and errors are words on standard error.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import BaseFileLock, Timeout

from localfoundry import __version__, config, instance
from localfoundry.access.bind import Bind, allowed
from localfoundry.api import logs, traces
from localfoundry.api.notify import notify
from localfoundry.catalog.lookup import Catalog
from localfoundry.config import Settings
from localfoundry.errors import DiskError, FoundryError, InvalidSetting, PortInUse, ServiceStartFailed

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("localfoundry.api")

_LOCK_WAIT_S = 2.0  # whoever asks whether a service runs holds the lock for a moment


def main() -> int:
    flags, foreground, insecure, private = _arguments()
    if private:
        _stop_when_stdin_closes()
    if not foreground:
        return serve(flags, insecure=insecure)
    try:
        return serve(flags, foreground=True, insecure=insecure)
    except FoundryError as exc:
        hint = f"\n  try: {exc.hint}" if exc.hint else ""
        os.write(2, f"error: {exc.message}{hint}\n".encode())
        return exc.exit_code


def serve(flags: Mapping[str, object], *, foreground: bool = False, insecure: bool = False) -> int:
    """Be the service until it is told to stop; its exit status.

    In the foreground what keeps it from starting is raised as FoundryError, otherwise reported on standard output.
    """
    again = functools.partial(config.load, flags, dict(os.environ))
    if sys.platform != "win32" and not instance.at_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server can read its settings again
    # Kept until the server can look: an exception out of a handler is lost where it strikes inside the import system.
    stop_asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_asked.set())
    try:
        settings = again()
        logs.configure(settings)
        traces.check(settings)
        lock = _lock(settings)
        instance.clear_stale(settings)
        catalog = Catalog.load(settings.catalog_file)
        tls = _tls(settings)
        listener = _bind(settings)
        bind = _rules(settings, listener, tls is not None, insecure)
        socket_dir = _announce(settings, bind, tls[1] if tls else None)
    except FoundryError as exc:
        if foreground:
            raise
        os.write(1, instance.report_failure(exc))
        return exc.exit_code
    try:
        if foreground:
            notify("READY=1")
        else:
            os.write(1, b"ready\n")
            os.dup2(2, 1)
        from localfoundry.api import server

        ssl_context = tls[0] if tls else None
        server.run(server.serve(settings, catalog, listener, socket_dir, bind, ssl_context, again, stop_asked))
    finally:
        shutil.rmtree(socket_dir, ignore_errors=True)
        instance.state_file(settings).unlink(missing_ok=True)
        lock.release()
    return 0


def _announce(settings: Settings, bind: Bind, certificate: str | None) -> Path:
    """Tell everyone where the service is, and return the folder of its workers' sockets. Raises DiskError."""
    # Made with mode 0700. In the system's folder for temporary files: the path of a socket must be short.
    socket_dir = Path(tempfile.mkdtemp(prefix=instance.SOCKET_DIR_PREFIX))
    state = instance.ServiceState(
        os.getpid(), bind.url, time.time(), __version__, str(socket_dir), bind.host, bind.owner_token, certificate,
        bind.keys_required, bind.insecure,
    )  # fmt: skip
    try:
        instance.write_state(settings, state)
    except DiskError:
        socket_dir.rmdir()
        raise
    log.info("localfoundry %s listens on %s, models in %s", __version__, state.url, settings.models_dir)
    if bind.insecure:
        log.warning("whoever reaches %s port %d can use the models: --insecure", bind.host, bind.port)
    return socket_dir


def _arguments() -> tuple[dict[str, object], bool, bool, bool]:
    """Settings given as flags, by field name; whether to stay in the foreground, be insecure, end with its owner."""
    parser = argparse.ArgumentParser(prog="localfoundry.api")
    parser.add_argument("--foreground", action="store_true")
    for option in config.options():
        parser.add_argument(f"--{option.name.replace('_', '-')}", dest=option.name)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--until-stdin-closes", action="store_true")
    flags = vars(parser.parse_args())
    return flags, flags.pop("foreground"), flags.pop("insecure"), flags.pop("until_stdin_closes")


def _stop_when_stdin_closes() -> None:
    """End as SIGTERM ends it once the owner of a private service is gone, however that one ended."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _tls(settings: Settings) -> tuple[ssl.SSLContext, str] | None:
    if settings.tls_certificate is None and settings.tls_key is None:
        return None
    from localfoundry.api.tls import server_context

    return server_context(settings)


def _rules(settings: Settings, listener: socket.socket, tls: bool, insecure: bool) -> Bind:
    """What holds at the address that was bound, which is what counts, whatever its name. Raises UnsafeBind."""
    address, port = listener.getsockname()[:2]
    try:
        required, opened = allowed(settings, address, insecure=insecure)
    except FoundryError:
        listener.close()
        raise
    return Bind(host=address, port=port, tls=tls, keys_required=required, insecure=opened)


def _lock(settings: Settings) -> BaseFileLock:
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        lock = instance.service_lock(settings)
        lock.acquire(timeout=_LOCK_WAIT_S)
    except Timeout:
        raise ServiceStartFailed("another service of this home is running", hint="foundry service status") from None
    except OSError as exc:
        raise DiskError(f"cannot write to {settings.run_dir}: {exc.strerror}") from exc
    return lock


def _bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises PortInUse naming who has the port, where the system tells, and InvalidSetting."""
    family, address = _resolved(settings)
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # there, this option would let two services have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise PortInUse(
            f"port {settings.port} on {settings.host} cannot be used: {exc.strerror}{_holder(settings.port)}",
            hint="foundry service start --port 0   (a free port; `foundry service status` tells which)",
        ) from exc
    listener.setblocking(False)
    return listener


def _resolved(settings: Settings) -> tuple[int, tuple[str, int]]:
    family = socket.AF_UNSPEC if settings.host != "localhost" else socket.AF_INET
    try:
        found = socket.getaddrinfo(settings.host, settings.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except OSError as exc:
        raise InvalidSetting(
            f"host = {settings.host!r} is not an address or a name of this machine: {exc.strerror}",
            hint="foundry service start --host 127.0.0.1",
        ) from exc
    return found[0][0], found[0][4]  # type: ignore[return-value]


def _holder(port: int) -> str:
    import psutil

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
