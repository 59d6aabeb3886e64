"""The one running service of a home folder: how it is found, told from a dead one, and started.

A running service holds a lock for as long as it lives; the system lets go of it however the process ends. So a state
file without a held lock is what a dead process left, whatever its process id says now.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from localfoundry import errors
from localfoundry.config import Settings
from localfoundry.errors import DiskError, FoundryError, ServiceStartFailed

SOCKET_DIR_PREFIX = "foundry-"
_START_TIMEOUT_S = 30.0


class ServiceState(msgspec.Struct, frozen=True):
    """What a running service says of itself: `url` without a slash at the end, times in seconds since the epoch.

    `owner_token` lets in whoever can read the file, which is the account that started it; do not show or log it.
    """

    pid: int
    url: str
    started_at: float
    version: str
    socket_dir: str
    host: str = ""  # the address it listens on, which for all of them is not the one in `url`
    owner_token: str = ""
    certificate: str | None = None  # PEM, what a client on this machine trusts and nothing else
    keys_required: bool = False
    insecure: bool = False

    def __repr__(self) -> str:
        return f"ServiceState(pid={self.pid}, url={self.url!r})"


def state_file(settings: Settings) -> Path:
    return settings.run_dir / "service.json"


def service_lock(settings: Settings) -> FileLock:
    return FileLock(settings.run_dir / "service.lock")


def running(settings: Settings) -> ServiceState | None:
    """The running service, or None. Only reads; never waits. A state file of a dead process counts as none."""
    state = _last_state(settings)
    if state is None:
        return None
    try:
        with service_lock(settings).acquire(blocking=False):
            return None
    except Timeout:
        # Somebody who asks, as this does, holds the lock for a moment too, and so does a service that is starting.
        return state if _exists(state.pid) else None
    except OSError:  # a read-only home: nobody could hold a lock in it
        return None


def clear_stale(settings: Settings) -> None:
    """Remove what a killed service left: its state file and the sockets of its workers. Call with the lock held."""
    state = _last_state(settings)
    if state is None:
        return
    sockets = Path(state.socket_dir)
    if sockets.name.startswith(SOCKET_DIR_PREFIX) and not sockets.is_symlink():
        shutil.rmtree(sockets, ignore_errors=True)
    state_file(settings).unlink(missing_ok=True)


def _last_state(settings: Settings) -> ServiceState | None:
    try:
        return msgspec.json.decode(state_file(settings).read_bytes(), type=ServiceState)
    except (OSError, msgspec.MsgspecError):
        return None


def _exists(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_state(settings: Settings, state: ServiceState) -> None:
    """Announce a service. Raises DiskError."""
    target = state_file(settings)
    temporary = target.with_suffix(".tmp")
    try:
        temporary.unlink(missing_ok=True)
        # Made with its final mode: whoever reads it may do everything the account itself may do with the service.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode(state))
        temporary.replace(target)
    except OSError as exc:
        raise DiskError(f"cannot write {target}: {exc.strerror}") from exc


def start(settings: Settings, *, insecure: bool = False, lifeline: int | None = None) -> tuple[ServiceState, bool]:
    """The running service, started if there is none; True when this call started it. Blocks until it listens.

    Two callers at once: one starts it, the other waits and finds it. `insecure`: without API keys although others can
    reach it. `lifeline`: the end of a pipe that is read from; the service stops when nobody holds the other one, which
    is so when its owner was killed.

    Raises ServiceStartFailed, PortInUse, DiskError, UnsafeBind, BadKeyFile, InvalidSetting.
    """
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        starting = FileLock(settings.run_dir / "start.lock").acquire(timeout=_START_TIMEOUT_S)
    except Timeout:
        raise ServiceStartFailed(
            f"another start of the service has been under way for {_START_TIMEOUT_S:.0f} s",
            hint="foundry service status",
        ) from None
    except OSError as exc:
        raise DiskError(
            f"cannot write to {settings.home}: {exc.strerror}", hint="set FOUNDRY_HOME to a folder you may write to"
        ) from exc
    with starting:
        state = running(settings)
        if state is not None:
            return state, False
        _spawn(settings, insecure, lifeline)
        state = running(settings)
        if state is None:
            raise ServiceStartFailed("the service ended right after its start", hint="foundry service logs")
        return state, True


def _spawn(settings: Settings, insecure: bool, lifeline: int | None) -> None:
    """Start the daemon and wait for its report: one line on its standard output, which it then lets go of.

    Only flags go along: what is in the file the daemon reads itself, so that a change of the file reaches it.
    """
    argv = [sys.executable, "-m", "localfoundry.api", *flags_of(settings)]
    argv += ["--insecure"] if insecure else []
    argv += ["--until-stdin-closes"] if lifeline is not None else []
    log_file = settings.log_dir / "service.log"
    detached: dict[str, object] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        detached = {"creationflags": flags}
    environment = dict(os.environ, FOUNDRY_HOME=str(settings.home), FOUNDRY_CACHE_DIR=str(settings.models_dir))
    stdin = subprocess.DEVNULL if lifeline is None else lifeline
    with log_file.open("ab") as log:
        process = subprocess.Popen(  # type: ignore[call-overload]
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=log, cwd="/", env=environment, **detached
        )
    with process.stdout:
        report = process.stdout.readline()  # end of file if it dies; its own timeouts bound the wait
    if report.strip() == b"ready":
        return
    process.wait(timeout=_START_TIMEOUT_S)
    raise _reported(report, log_file)


def flags_of(settings: Settings) -> list[str]:
    """The flags that these settings were made with, as a daemon takes them."""
    given = {n: getattr(settings, n) for n, source in settings.sources.items() if source == "flag"}
    texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
    return [word for name, text in texts.items() for word in (f"--{name.replace('_', '-')}", text)]


def _reported(report: bytes, log_file: Path) -> FoundryError:
    """The error that a daemon reported before it ended, as the same class it was raised with there."""
    with contextlib.suppress(ValueError, KeyError):
        told = json.loads(report)
        kind = getattr(errors, told["class"])
        error = kind.__new__(kind)
        FoundryError.__init__(error, told["message"], hint=told["hint"])
        assert isinstance(error, FoundryError)
        return error
    last = log_file.read_text(errors="replace").splitlines()[-1:] or ["it left no word"]
    return ServiceStartFailed(f"the service did not start: {last[0]}", hint="foundry service logs")


def report_failure(error: FoundryError) -> bytes:
    """The line that `_reported` reads."""
    told: Mapping[str, object] = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    return json.dumps(told).encode() + b"\n"


def at_terminal() -> bool:
    """Whether this process was started in a terminal, and ends with it."""
    return sys.stdin is not None and sys.stdin.isatty()


def wait_stopped(settings: Settings, timeout_s: float) -> bool:
    """Wait until the service has let go of its lock; False if it still holds it after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while running(settings) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
