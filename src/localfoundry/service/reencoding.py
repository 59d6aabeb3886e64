"""Re-encodings made for loads: one at a time for a version, each in a process of its own, which an unload ends.

Re-encoding computes with numpy for seconds and takes memory; in a process of its own both are gone with it. The process
writes `0.40` and the like to standard output as it goes, and says what went wrong on standard error. It works in the
store's folder for things half made and renames at the end, so that one that is killed leaves no version behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from localfoundry.errors import LoadFailed
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

log = logging.getLogger(__name__)

_LONGEST_WORDS = 2000


@dataclass(slots=True, eq=False)
class Making:
    """One that is being made; `share` of it is done, from 0 to 1."""

    source: Manifest
    type: str
    done: asyncio.Future[None]
    share: float = 0.0
    process: asyncio.subprocess.Process | None = None
    cancelled: bool = False

    @property
    def words(self) -> str:
        return f"re-encoding to {self.type}, {self.share:.0%}"


def command_for(store: Store, source: Manifest, type: str) -> tuple[str, ...]:
    """The process that makes one."""
    return (sys.executable, "-m", "localfoundry.build.reencode", str(store.root), source.id, type)


@dataclass(slots=True)
class Reencodings:
    """See the module. `failed`: why it could not be done, by version; not tried again while the service runs."""

    store: Store
    command: Callable[[Store, Manifest, str], tuple[str, ...]] = command_for
    failed: dict[str, str] = field(default_factory=dict)
    _making: dict[str, Making] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def under_way(self) -> list[Making]:
        return list(self._making.values())

    async def make(self, source: Manifest, type: str) -> None:
        """Return when it is there, or when `failed` says why not. Whoever wants the same waits for the same one.

        Raises LoadFailed where a person cancelled it. Cancelling the caller does not stop it.
        """
        making = self._making.get(source.id)
        if making is None:
            making = self._making[source.id] = Making(source, type, asyncio.get_running_loop().create_future())
            task = asyncio.create_task(self._make(making))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.shield(making.done)

    def cancel(self, id: str) -> bool:
        """End the one that is made of this version; False where there is none."""
        making = self._making.get(id)
        if making is None:
            return False
        making.cancelled = True
        if making.process is not None:
            with contextlib.suppress(ProcessLookupError):
                making.process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        return True

    async def close(self) -> None:
        """End them all."""
        for version in list(self._making):
            self.cancel(version)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _make(self, making: Making) -> None:
        source = making.source
        log.info("%s: re-encoding to %s for a load", source.id, making.type)
        try:
            problem = await self._run(making)
        except OSError as exc:
            problem = exc.strerror or "its process did not start"
        del self._making[source.id]
        if making.cancelled:
            making.done.set_exception(
                LoadFailed(
                    f"{source.id} was unloaded while it was re-encoded to {making.type}",
                    hint=f"foundry model load {source.alias}",
                    param="model",
                )
            )
            making.done.exception()  # nobody may be waiting for it
            log.info("%s: re-encoding was cancelled", source.id)
            return
        if problem:
            self.failed[source.id] = problem
            log.warning("%s: re-encoding to %s failed: %s", source.id, making.type, problem)
        making.done.set_result(None)

    async def _run(self, making: Making) -> str:
        """Words for what went wrong; empty where nothing did."""
        making.process = process = await asyncio.create_subprocess_exec(
            *self.command(self.store, making.source, making.type),
            stdin=asyncio.subprocess.PIPE,  # its closing tells the process that we are gone
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if making.cancelled:
            self.cancel(making.source.id)
        assert process.stdout is not None and process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        while line := await process.stdout.readline():
            with contextlib.suppress(ValueError):
                making.share = min(max(float(line), 0.0), 1.0)
        words = (await said).decode("utf-8", "replace").strip()
        if await process.wait() == 0:
            return ""
        return words.splitlines()[-1][:_LONGEST_WORDS] if words else f"its process ended with {process.returncode}"
