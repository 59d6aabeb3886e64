"""A build of llama.cpp in the background: started, watched, ended.

| state.json | the lock | what that is |
|---|---|---|
| none | free | nothing was begun |
| a stage | held | it is being made; `share` of the stage is done |
| a stage | free | it was killed; asked for again, it goes on where it was |
| `failed` | free | it ended with `error` and `hint`; what was fetched and compiled is kept |
| `done` | free | `name` is installed, and the working folder is gone |

`python -m localfoundry.build.native_job` is that process. It holds the lock, which the kernel lets go of whatever
happens to it, and runs below the priority of everything else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil

from localfoundry import config
from localfoundry.build import native
from localfoundry.build.native import Wish
from localfoundry.config import Settings
from localfoundry.errors import BuildFailed, FoundryError, UsageError
from localfoundry.store import disk
from localfoundry.wording import without_paths

STAGES = ("fetching", "unpacking", "configuring", "compiling", "trying")
_NICE = 10
_END_S = 10.0
_WRITE_EVERY_S = 0.3


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `state.json` keeps; see the module. `pid` is the process's while the lock is held."""

    stage: str
    share: float
    pid: int
    started_at: float  # seconds since the epoch
    version: str | None = None
    gpu: str = "auto"
    jobs: int = 0
    archive: str | None = None
    error: str | None = None
    hint: str | None = None
    name: str | None = None

    @property
    def wish(self) -> Wish:
        """What was asked for, to ask for it again."""
        return Wish(self.version, self.gpu, self.jobs, Path(self.archive) if self.archive else None)


def log_file(settings: Settings) -> Path:
    """What the tools of the last build wrote."""
    return settings.log_dir / "engine-build.log"


def _state_file(settings: Settings) -> Path:
    return settings.home / "engines" / "state.json"


def _lock_file(settings: Settings) -> Path:
    return settings.home / "engines" / "build.lock"


def state(settings: Settings) -> State | None:
    """The last build as it says of itself; None where there was none, or it cannot be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_state_file(settings).read_bytes(), type=State)
    return None


def running(settings: Settings) -> bool:
    """Whether one is being made right now."""
    if not _lock_file(settings).exists():
        return False
    with disk.held(_lock_file(settings)) as free:
        return not free


def start(settings: Settings, wish: Wish) -> None:
    """Start a build that goes on by itself. Returns when it is under way. Raises UsageError where one is already,
    BuildFailed, and what `native.check` raises."""
    native.check(settings, wish)
    if running(settings):
        raise UsageError("an engine is being built already", hint="foundry engine list")
    log = log_file(settings)
    with disk.writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        _state_file(settings).parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    argv = [sys.executable, "-m", "localfoundry.build.native_job", wish.version or "", wish.gpu, str(wish.jobs),
            str(wish.archive.absolute()) if wish.archive else "", "offline" if settings.offline else ""]  # fmt: skip
    detached: dict[str, object] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    environment = dict(os.environ, FOUNDRY_HOME=str(settings.home))
    with log.open("ab") as writing:
        process = subprocess.Popen(  # type: ignore[call-overload]
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writing, env=environment, cwd="/", **detached
        )
    with process.stdout:
        if process.stdout.readline().strip() == b"started":
            return
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it left no word"]
    raise BuildFailed(f"the build did not start: {without_paths(last[0])[:300]}")


def cancel(settings: Settings) -> bool:
    """End the build that is being made and remove what it has so far; False where there is none. Seconds."""
    told = state(settings)
    if told is None or not running(settings):
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(told.pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(family, timeout=_END_S)
    clear(settings)
    return True


def clear(settings: Settings) -> int:
    """Remove what a build that is not being made has left; the bytes that this frees. Raises UsageError, DiskError."""
    if running(settings):
        raise UsageError("an engine is being built", hint="foundry engine install llama.cpp --cancel")
    native.end_leftovers(native.work_folder(settings))
    with disk.writing(native.work_folder(settings)):
        disk.remove_file(_state_file(settings))
        return disk.remove_tree(native.work_folder(settings))


class _Teller:
    """Keeps `state.json` as it goes, and not more often than anyone could read it."""

    def __init__(self, settings: Settings, wish: Wish) -> None:
        self._path = _state_file(settings)
        self._wish = wish
        self._state = State("fetching", 0.0, os.getpid(), time.time(), wish.version, wish.gpu, wish.jobs,
                            str(wish.archive) if wish.archive else None)  # fmt: skip
        self._told = 0.0

    def stage(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage != self._state.stage or now - self._told >= _WRITE_EVERY_S:
            self._told = now
            self.change(stage=stage, share=round(share, 3))

    def change(self, **fields: object) -> None:
        self._state = msgspec.structs.replace(self._state, **fields)
        disk.replace_bytes(self._path, msgspec.json.encode(self._state))


def main(arguments: list[str]) -> int:
    """What the background process does. It writes `started` on its standard output and goes on."""
    version, gpu, jobs, archive, offline = arguments
    settings = config.load({"offline": True} if offline else {})
    wish = Wish(version or None, gpu, int(jobs), Path(archive) if archive else None)
    with disk.held(_lock_file(settings)) as free:
        if not free:
            print("another build is under way", file=sys.stderr)
            return 1
        teller = _Teller(settings, wish)
        teller.change()
        print("started", flush=True)
        _into_log()
        try:
            build = native.make(settings, wish, teller.stage)
        except FoundryError as exc:
            print(f"error: {exc.message}", flush=True)
            teller.change(stage="failed", error=exc.message, hint=exc.hint)
            return exc.exit_code
        disk.remove_tree(native.work_folder(settings))
        teller.change(stage="done", share=1.0, name=build.name)
    return 0


def _into_log() -> None:
    """From here on everything that is written goes where errors go, the log; and others go first."""
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(_NICE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
