"""What the HTTP layer of our own workers costs: processor time for a token, over a backend that computes nothing.

    python benchmarks/worker_layer.py [STREAMS ...]

The client is a process of its own that only reads. Printed: microseconds of the worker's processor time for a token,
and bytes on the socket for one.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from localfoundry.workers import http
from localfoundry.workers.generation import Progress, Sampling, Vocabulary
from localfoundry.workers.serving import Serving

TOKENS = 4000


class Nothing:
    """Says the same word for ever, at once."""

    name = "nothing"
    context = 1_000_000
    parallel = 64
    options: frozenset[str] = frozenset()
    template = None
    vocabulary = Vocabulary([b" word", b""], frozenset({1}))

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def encode(self, text: str, special: bool) -> list[int]:
        return [0]

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self._left[request] = sampling.max_tokens

    def cancel(self, request: int) -> None:
        del self._left[request]

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Progress]:
        news = []
        for request in list(self._left):
            self._left[request] -= 1
            done = not self._left[request]
            if done:
                del self._left[request]
            news.append(Progress(request, (0,), "length" if done else None))
        return news

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return []


def read(path: str, streams: int) -> None:
    """The client: ask for so many streams, and read them to their ends."""
    body = json.dumps({"prompt": "x", "max_tokens": TOKENS, "stream": True}).encode()
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        selector.register(connection, selectors.EVENT_READ, connection)
    size = 0
    while selector.get_map():
        for key, _ in selector.select():
            block = key.data.recv(65536)
            size += len(block)
            if not block:
                selector.unregister(key.data)
    print(f"  {size / streams / TOKENS:.0f} bytes for a token", flush=True)


async def measure(streams: int, folder: Path) -> None:
    path = str(folder / f"{streams}.sock")
    server = await http.listen(Serving(Nothing(), "nothing", "nothing"), path, 0)
    client = multiprocessing.get_context("spawn").Process(target=read, args=(path, streams))
    client.start()
    before = time.process_time()
    await asyncio.to_thread(client.join)
    spent = time.process_time() - before
    server.close()
    print(f"{streams} streams: {spent / streams / TOKENS * 1e6:.1f} microseconds for a token")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for streams in [int(word) for word in sys.argv[1:]] or [1, 8]:
            uvloop.run(measure(streams, Path(folder)))


if __name__ == "__main__":
    main()
