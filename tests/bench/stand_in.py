"""A stand-in for the `foundry` command and its service, just enough for the benchmark scripts to run through.

`stand_in.py ARGUMENTS` is the command; `stand_in.py serve` is the service: one asyncio server on a free port and, as
its own worker, on a Unix socket. State is a JSON file in FOUNDRY_HOME.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FOUNDRY_HOME"])
STATE = HOME / "state.json"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
START_DEADLINE_S = 30


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
    body = json.loads(await reader.readexactly(length) or b"{}")
    kind, payload = b"application/json", b"[]"
    if "/v1/chat/completions" in head:
        count = body["max_tokens"]
        usage = b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\ndata: [DONE]\n\n' % count
        kind, payload = b"text/event-stream", TOKEN * count + usage
    elif "/foundry/load" in head:
        payload = b'{"load_s":0.02,"engine_load_s":0.01}'
    elif "/foundry/ps" in head:
        payload = json.dumps([{"id": "m:1", "socket": str(HOME / "w.sock")}]).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n\r\n" % kind + payload)
    await writer.drain()
    writer.close()


async def serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        await asyncio.start_unix_server(answer, HOME / "w.sock"),
    ):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps({"running": True, "pid": os.getpid(), "webUrls": [url]}))
        temporary.replace(STATE)
        await stop.wait()
        STATE.unlink()


def start() -> None:
    with (HOME / "log").open("wb") as log:
        subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_until(STATE.exists)


def stop() -> None:
    if STATE.exists():
        os.kill(json.loads(STATE.read_text())["pid"], signal.SIGTERM)
        wait_until(lambda: not STATE.exists())


def wait_until(true: object) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            sys.exit("the stand-in service did not follow")
        time.sleep(0.005)


def main(arguments: list[str]) -> int:
    if arguments == ["serve"]:
        asyncio.run(serve())
    elif arguments[:2] == ["service", "start"]:
        start()
    elif arguments[:2] == ["service", "stop"]:
        stop()
    elif arguments[:2] == ["service", "status"]:
        print(STATE.read_text() if STATE.exists() else '{"running": false}')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
