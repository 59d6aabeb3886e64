"""A chat server with a known token clock in a process of its own, for measuring the measuring.

`token_clock.py PORT_FILE STAMPS_FILE TTFT_S GAP_S TOKENS [PER_CHUNK] [REASONING] [STALL_AFTER STALL_S]`: each answer's
first chunk comes TTFT_S after its request, then one every GAP_S, by a schedule that does not drift; after STALL_AFTER
chunks it stalls once for STALL_S. On SIGTERM it writes what it did: for each request, by the nine digits that lead its
prompt, when it was received and when chunks were written, in seconds of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_START_S = 20
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Clock:
    """How every answer comes."""

    ttft_s: float
    gap_s: float
    tokens: int
    per_chunk: int = 1
    reasoning: int = 0  # chunks
    stall_after: int = 0
    stall_s: float = 0.0

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.per_chunk)

    @property
    def span_s(self) -> float:
        """From the first to the last token."""
        return (self.chunks - 1) * self.gap_s + self.stall_s

    @property
    def latency_s(self) -> float:
        return self.ttft_s + self.span_s

    def arguments(self) -> list[str]:
        values = (self.ttft_s, self.gap_s, self.tokens, self.per_chunk, self.reasoning, self.stall_after, self.stall_s)
        return [str(value) for value in values]


class Running:
    """A server process. `stamps` are there after it has ended."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        self.stamps: dict[str, list[float]] = {}


@contextmanager
def running(clock: Clock) -> Iterator[Running]:
    """The server, ended on leaving."""
    with TemporaryDirectory() as folder:
        port, stamps = Path(folder, "port"), Path(folder, "stamps")
        process = subprocess.Popen([sys.executable, __file__, str(port), str(stamps), *clock.arguments()])
        deadline = time.monotonic() + _START_S
        while not port.exists():
            assert time.monotonic() < deadline and process.poll() is None, "the token clock did not start"
            time.sleep(0.01)
        server = Running(f"http://127.0.0.1:{port.read_text()}", process.pid)
        try:
            yield server
        finally:
            process.terminate()
            process.wait(_START_S)
            if stamps.exists():
                server.stamps = json.loads(stamps.read_text())


class _Server:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stamps: dict[str, list[float]] = {}
        delta = {"choices": [{"index": 0, "delta": {"content": "word " * clock.per_chunk}}]}
        thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "word " * clock.per_chunk}}]}
        usage = {"prompt_tokens": 60, "completion_tokens": clock.tokens}
        self.answer, self.thought = _event(delta), _event(thought)
        self.ending = _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self.ending += _event({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                received = time.perf_counter()
                writer.write(_HEAD)
                await self._answer(writer, received, body)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, received: float, body: bytes) -> None:
        clock, due = self.clock, received + self.clock.ttft_s
        stamps = self.stamps[json.loads(body)["messages"][0]["content"][:9]] = [received]
        for number in range(clock.chunks):
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            stamps.append(time.perf_counter())
            writer.write(self.thought if number < clock.reasoning else self.answer)
            due += clock.gap_s + (clock.stall_s if number + 1 == clock.stall_after else 0)
        writer.write(self.ending)
        await writer.drain()


def _event(payload: object) -> bytes:
    return _chunk(b"data: " + json.dumps(payload).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _main(port: Path, stamps: Path, clock: Clock) -> None:
    server = _Server(clock)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=512)
    announced = port.with_suffix(".tmp")
    announced.write_text(str(listening.sockets[0].getsockname()[1]))
    announced.replace(port)
    await stop.wait()
    await asyncio.to_thread(stamps.write_text, json.dumps(server.stamps))


if __name__ == "__main__":
    numbers = sys.argv[3:]
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), Clock(
        float(numbers[0]), float(numbers[1]), *(int(n) for n in numbers[2:6]), float(numbers[6]),
    )))  # fmt: skip
