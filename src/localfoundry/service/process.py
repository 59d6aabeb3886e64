"""One worker process: started, watched, its words kept, and ended.

    state       meaning                                  next
    starting    process runs, not ready yet              ready | failed
    ready       answers /health                          stopping | crashed
    stopping    asked to end                             ended
    failed      ended, or was late, before it was ready: the engine refused the model (LoadFailed)
    crashed     ended by itself after it was ready, or was killed because it gave no sign of life

Which model it runs and when it should end is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from localfoundry.engines.base import Endpoint, WorkerCommand
from localfoundry.errors import LoadFailed
from localfoundry.service import upstream

log = logging.getLogger(__name__)

_POLL_S = 0.01
_WORDS_WAIT_S = 0.5
_LOG_LIMIT = 4_000_000
_START_LOG_LIMIT = 256_000


def new_endpoint(folder: Path) -> Endpoint:
    """A place for one worker to listen: a socket in the private folder, or a loopback port with a secret."""
    if hasattr(socket, "AF_UNIX") and os.name != "nt":
        return Endpoint(path=str(folder / f"{secrets.token_hex(4)}.sock"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint(port=probe.getsockname()[1], secret=secrets.token_urlsafe(24))


class Worker:
    """See the module. Make it with `start`."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: Endpoint, log_file: Path) -> None:
        self.endpoint = endpoint
        self.state = "starting"
        self.log_file = log_file
        self.start_log = ""  # the beginning of what it wrote: the engine's own account of the load is in it
        self.complaint = ""  # why it was killed, where that was not asked for
        self._process = process
        self._words = asyncio.Event()
        self._reader = asyncio.create_task(self._keep_words())
        self.exited = asyncio.create_task(self._wait())

    @classmethod
    async def start(
        cls, command: WorkerCommand, endpoint: Endpoint, log_file: Path, data_limit_bytes: int | None = None
    ) -> Worker:
        """Start the process. Raises LoadFailed where the system refuses to."""
        environment = dict(os.environ)
        if data_limit_bytes:
            environment["FOUNDRY_WORKER_DATA_LIMIT"] = str(data_limit_bytes)
        if endpoint.secret:
            environment["FOUNDRY_WORKER_SECRET"] = endpoint.secret
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.PIPE,  # never written to: its closing tells the worker that we are gone
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the service to handle
            )
        except OSError as exc:
            raise LoadFailed(f"cannot start the {command.engine} worker: {exc.strerror}") from exc
        return cls(process, endpoint, log_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the worker answers /health. Raises LoadFailed if it ends or is late; it is ended then."""
        deadline = time.monotonic() + timeout_s
        while not self.exited.done():
            if time.monotonic() > deadline:
                await self.stop(0)
                self.state = "failed"
                raise LoadFailed(f"the model was not ready after {timeout_s:.0f} s and was stopped")
            with contextlib.suppress(upstream.UpstreamClosed):
                response = await upstream.request(self.endpoint, "GET", "/health")
                response.close()
                if response.status == 200:
                    self.state = "ready"
                    return
            await asyncio.wait([self.exited], timeout=_POLL_S)
        await self._reader
        self.state = "failed"
        raise LoadFailed("the engine ended while it loaded the model")

    def kill(self, complaint: str) -> None:
        """End a worker that is broken; it then counts as crashed."""
        self.complaint = complaint
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it: the system's doing when memory runs out, if it was not ours."""
        return self._process.returncode == -9

    async def told(self, what: Callable[[str], bool]) -> None:
        """Wait a moment for words that were written before the worker was ready but have not been read yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WORDS_WAIT_S):
                while not what(self.start_log):
                    self._words.clear()
                    await self._words.wait()

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and end it after `grace_s`. Returns when it is gone and its memory is free."""
        if not self.exited.done():
            self.state = "stopping"
            with contextlib.suppress(ProcessLookupError):
                if grace_s > 0:
                    self._process.terminate()
            await asyncio.wait([self.exited], timeout=grace_s)
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.exited

    async def _wait(self) -> int:
        code = await self._process.wait()
        if self.endpoint.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.endpoint.path)  # noqa: PTH108 one entry of a folder in memory
        if self.state == "ready":
            self.state = "crashed"
            log.warning("worker %d ended by itself with status %d", self.pid, code)
        return code

    async def _keep_words(self) -> None:
        """Copy what the worker writes into its log: one file of 4 MB and the one before it.

        A disk that is full or read-only must not stop a model: its words are then read and dropped.
        """
        assert self._process.stderr is not None
        sink = RotatingFileHandler(self.log_file, maxBytes=_LOG_LIMIT, backupCount=1, encoding="utf-8", delay=True)
        sink.terminator = ""
        with contextlib.closing(sink):
            while block := await self._process.stderr.read(65536):
                text = block.decode("utf-8", "replace")
                if len(self.start_log) < _START_LOG_LIMIT:
                    self.start_log += text
                    self._words.set()
                sink.emit(logging.makeLogRecord({"msg": text}))
