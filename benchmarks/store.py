"""Downloads: speed against `curl` plus `sha256sum` of the same file, memory, and what a kill costs.

    python benchmarks/store.py [--rounds 5] [--mib 1024] [--connections 4] [--folder DIR] [--json FILE]

A server in a process of its own sends the file from the page cache with sendfile, so it costs next to nothing; what it
can do is the line "curl to /dev/null". Everything is timed as a whole process, start included, once a round, in turn.
Ours ends with the bytes on the disk (fsync) and both sums made, of the whole and of each chunk; `curl` does not sync.
"Fetched again" is what the server sent in a download that was killed half-way and its resume, less the file: it
includes what was on its way in socket buffers, which is why the chunk beyond the connections is allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rig import BenchmarkFailed, Line, publish

from localfoundry.bench import stats
from localfoundry.sources.network import open_client
from localfoundry.sources.plan import PlannedFile
from localfoundry.store.download import Limits, fetch
from localfoundry.store.journal import CHUNK_BYTES, vouched_bytes

_MIB = 1024 * 1024
_SPEED_GOAL = 1 / 0.9  # our time over theirs
_MEMORY_GOAL_MB = 120.0
Samples = dict[str, list[float]]


# The server: `store.py --serve FILE` prints its port; /served answers with the bytes sent so far


class _Server:
    def __init__(self, path: Path) -> None:
        self.path, self.size, self.sent = path, path.stat().st_size, 0

    def run(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with connection, self.path.open("rb") as file, contextlib.suppress(ConnectionError):
            while True:
                while b"\r\n\r\n" not in received:
                    data = connection.recv(65536)
                    if not data:
                        return
                    received += data
                head, received = received.split(b"\r\n\r\n", 1)
                self._answer(connection, head, file.fileno())

    def _answer(self, connection: socket.socket, head: bytes, file: int) -> None:
        if b" /served " in head:
            text = str(self.sent).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            return
        match = re.search(rb"(?i)range: bytes=(\d+)-(\d*)", head)
        at, end = (int(match[1]), int(match[2]) + 1 if match[2] else self.size) if match else (0, self.size)
        status = b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d" % (at, end - 1, self.size)
        connection.sendall(
            b'HTTP/1.1 %s\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n' % (status if match else b"200 OK", end - at)
        )
        while at < end:
            sent = os.sendfile(connection.fileno(), file, at, min(end - at, _MIB))
            self.sent += sent
            at += sent


@contextlib.contextmanager
def _serving(path: Path) -> Iterator[str]:
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(path)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/file"
    finally:
        server.kill()
        server.communicate()


# Our side, in a process of its own: `store.py --fetch URL PART SIZE SHA256 CONNECTIONS`


async def _fetch(url: str, part: Path, size: int, sha256: str, connections: int) -> None:
    async with open_client(stall_s=30) as client:
        file = PlannedFile("file", url=url, size_bytes=size, sha256=sha256)
        await fetch(client, file, part, limits=Limits(connections=connections))


def _ours(url: str, part: Path, size: int, sha256: str, connections: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--fetch", url, str(part), str(size), sha256, str(connections)])


def _measure(url: str, file: Path, sha256: str, connections: int, samples: Samples) -> None:
    size, out = file.stat().st_size, file.with_name("out")
    part = file.with_name("ours.part")
    for path in (out, part, part.with_suffix(".jsonl")):
        path.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(["curl", "-s", "-o", "/dev/null", url], check=True)
    samples["curl to /dev/null"].append(time.perf_counter() - began)
    began = time.perf_counter()
    subprocess.run(["curl", "-s", "-o", str(out), url], check=True)
    told = subprocess.run(["sha256sum", str(out)], check=True, capture_output=True, text=True).stdout
    samples["curl, then sha256sum"].append(time.perf_counter() - began)
    if told.split()[0] != sha256:
        raise BenchmarkFailed("curl delivered other bytes")
    out.unlink()
    began = time.perf_counter()
    child = _ours(url, part, size, sha256, connections)
    _, status, usage = os.wait4(child.pid, 0)
    samples["ours, verified and synced"].append(time.perf_counter() - began)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise BenchmarkFailed("our download failed")
    samples["memory"].append(usage.ru_maxrss * 1024 / 1e6)


def _kill_and_resume(url: str, file: Path, sha256: str, connections: int) -> float:
    """Chunks that a kill half-way made the server send again."""
    size, part = file.stat().st_size, file.with_name("killed.part")
    before = _sent(url)
    child = _ours(url, part, size, sha256, connections)
    while vouched_bytes(part.with_suffix(".jsonl")) < size // 2:
        if child.poll() is not None:
            raise BenchmarkFailed("our download ended before it could be killed")
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    if _ours(url, part, size, sha256, connections).wait():
        raise BenchmarkFailed("the resume failed")
    for path in (part, part.with_suffix(".jsonl")):
        path.unlink()
    return (_sent(url) - before - size) / CHUNK_BYTES


def _sent(url: str) -> int:
    with urllib.request.urlopen(url.replace("/file", "/served"), timeout=10) as answer:
        return int(answer.read())


def _lines(samples: Samples, connections: int) -> list[Line]:
    times = ("curl to /dev/null", "curl, then sha256sum", "ours, verified and synced")
    found = [Line(name, "s", samples[name]) for name in times]
    ratio = stats.paired_ratio(samples["ours, verified and synced"], samples["curl, then sha256sum"])
    found.append(Line("ours / (curl, then sha256sum), time", "x", (), ratio.value, ratio.interval, _SPEED_GOAL))
    found.append(Line("memory of our process, most", "MB", samples["memory"], goal=_MEMORY_GOAL_MB))
    found.append(Line("fetched again after a kill", "chunks", samples["again"], goal=connections + 1))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--mib", type=int, default=1024, help="size of the file")
    options.add_argument("--connections", type=int, default=4)
    options.add_argument("--folder", type=Path, help="where to write; else a temporary folder")
    options.add_argument("--json", type=Path, metavar="FILE", help="write results and raw samples there")
    chosen = options.parse_args()
    if shutil.which("curl") is None:
        raise BenchmarkFailed("there is no curl to compare with")
    samples: Samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="foundry-bench-", dir=chosen.folder) as folder:
        file = Path(folder) / "file"
        digest = hashlib.sha256()
        with file.open("wb") as stream:
            for _ in range(chosen.mib):
                data = os.urandom(_MIB)
                digest.update(data)
                stream.write(data)
        with _serving(file) as url:
            for _ in range(chosen.rounds):
                _measure(url, file, digest.hexdigest(), chosen.connections, samples)
                samples["again"].append(_kill_and_resume(url, file, digest.hexdigest(), chosen.connections))
    settings = {"rounds": chosen.rounds, "mib": chosen.mib, "connections": chosen.connections}
    publish(_lines(samples, chosen.connections), settings, samples, chosen.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _Server(Path(sys.argv[2])).run()
    elif sys.argv[1:2] == ["--fetch"]:
        _url, _part, _size, _sha256, _connections = sys.argv[2:]
        asyncio.run(_fetch(_url, Path(_part), int(_size), _sha256, int(_connections)))
    else:
        main()
