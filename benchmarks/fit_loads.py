"""One load of a file in the bundled worker, used until every buffer has been touched, and what it then takes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
import psutil

from localfoundry.engines.llama_cpp import LlamaCpp

LOAD_TIMEOUT_S = 600  # with its use
_PROMPT = 640  # tokens: more than one batch of 512
_CHECKPOINT_STEP = 520  # tokens from one checkpoint to the last one of a prompt: a batch, and some
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Options:
    """What a load is asked for. `cache`: the type of keys and values; `threads` 0: as many as the engine takes."""

    context: int
    parallel: int
    cache: str = "f16"
    flash_attention: str = "auto"
    embeddings: bool = False
    threads: int = 0

    @property
    def engine_arguments(self) -> tuple[str, ...]:
        given = []
        if self.cache != "f16":
            given += [f"cache_type_{of}=GGML_TYPE_{self.cache.upper()}" for of in ("k", "v")]
        if self.flash_attention != "auto":
            given.append(f"flash_attn_type=LLAMA_FLASH_ATTN_TYPE_{self.flash_attention.upper()}")
        if self.threads:
            given += [f"cpuparams{of}.n_threads={self.threads}" for of in ("", "_batch")]
        return tuple(given)


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes: `buffers` by purpose as the engine states them, the process's resident memory and its largest.

    `load_s` is from the start of the process to its readiness, `engine_load_s` the engine's own.
    """

    buffers: dict[str, int]
    resident: int
    peak: int
    load_s: float
    engine_load_s: float
    log: str


class LoadFailed(RuntimeError):
    """The engine refused the file; its last words."""


def measure(model: Path, options: Options, *, use: bool = True, window: int = 0) -> Measured:
    """Load, answer as many requests at once as there are sequences, one of them longer than a batch, and measure.

    `window`: tokens; each sequence is then used beyond it, so that the engine keeps all the checkpoints it may.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fit-") as folder,
        _worker(model, options, Path(folder), timed=False) as started,
    ):
        if use:
            _use(started.client, options)
            if window:
                _fill(started.client, options, window)
        resident, peak = _memory(started.pid)
        account = LlamaCpp().account(started.log)
        assert account.load_s is not None, started.log
        return Measured(account.memory, resident, peak, started.load_s, account.load_s, started.log)


@contextlib.contextmanager
def running(model: Path, options: Options) -> Iterator[tuple[httpx2.Client, float]]:
    """A client of a loaded worker, and the seconds that the load took."""
    with (
        tempfile.TemporaryDirectory(prefix="fit-") as folder,
        _worker(model, options, Path(folder), timed=True) as started,
    ):
        yield started.client, started.load_s


@dataclass(frozen=True, slots=True)
class _Started:
    client: httpx2.Client
    pid: int
    load_s: float
    said: list[str]  # lines; it goes on saying some after it is ready

    @property
    def log(self) -> str:
        return "".join(self.said)


@contextlib.contextmanager
def _worker(model: Path, options: Options, folder: Path, *, timed: bool) -> Iterator[_Started]:
    socket = folder / "w.sock"
    began = time.perf_counter()
    worker = subprocess.Popen(
        _command(model, options, socket),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | ({} if timed else {"OMP_WAIT_POLICY": "passive"}),  # threads that wait do not spin: that is
    )  # only for machines with other work, where a load would take ten times as long
    guard = threading.Timer(LOAD_TIMEOUT_S, worker.kill)
    guard.start()
    assert worker.stderr is not None
    said: list[str] = []
    drain = threading.Thread(target=_listen, args=(worker.stderr, said))  # or a full pipe would stop it
    try:
        _until_ready(worker.stderr, said)
        load_s = time.perf_counter() - began
        guard.cancel()
        drain.start()
        transport = httpx2.HTTPTransport(uds=str(socket))
        with httpx2.Client(transport=transport, base_url="http://worker", timeout=LOAD_TIMEOUT_S) as client:
            yield _Started(client, worker.pid, load_s, said)
    finally:
        guard.cancel()
        worker.kill()
        worker.wait()
        if drain.ident is not None:
            drain.join()
        worker.stderr.close()
        if worker.stdin is not None:
            worker.stdin.close()


def tokens(length: int) -> list[int]:
    """Tokens by number and not by text, so that it does not matter which vocabulary it is; each call gives others."""
    first = next(_numbers)
    return [100 + (n * 37 + first * 1009) % 20_000 for n in range(length)]


def _command(model: Path, options: Options, socket: Path) -> list[str]:
    command = [sys.executable, "-m", "localfoundry.workers.llama_cpp", "--model", str(model), "--alias", "x"]
    command += ["--context", str(options.context), "--parallel", str(options.parallel), "--socket", str(socket)]
    for argument in options.engine_arguments:
        command += ["--engine-argument", argument]
    return [*command, "--embeddings"] if options.embeddings else command


def _listen(stderr: IO[bytes], said: list[str]) -> None:
    said.extend(line.decode(errors="replace") for line in stderr)


def _until_ready(stderr: IO[bytes], said: list[str]) -> None:
    for line in stderr:
        said.append(line.decode(errors="replace"))
        if said[-1].startswith("engine_load_s="):
            return
    raise LoadFailed("".join(said[-12:]))


def _use(client: httpx2.Client, options: Options) -> None:
    longest = max(min(_PROMPT, options.context - 16), 16)

    def ask(length: int) -> None:
        if options.embeddings:
            answer = client.post("/embeddings", json={"content": tokens(min(length, 256))})
        else:
            body = {"prompt": tokens(length), "n_predict": 4, "cache_prompt": False, "ignore_eos": True}
            answer = client.post("/completion", content=json.dumps(body))
        answer.raise_for_status()

    ask(longest)
    short = min(32, options.context // options.parallel - 8)
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(ask, [short] * options.parallel))


def _fill(client: httpx2.Client, options: Options, window: int) -> None:
    """Prompts that leave two checkpoints of the whole window, as far as the context has room, in each sequence."""
    length = min(window + _CHECKPOINT_STEP, options.context // options.parallel - 16)
    for sequence in range(options.parallel):
        body = {"prompt": tokens(length), "n_predict": 4, "id_slot": sequence, "ignore_eos": True}
        client.post("/completion", content=json.dumps(body)).raise_for_status()


def _memory(pid: int) -> tuple[int, int]:
    resident = psutil.Process(pid).memory_info().rss
    peak = resident
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1]) * 1024
    return int(resident), peak
