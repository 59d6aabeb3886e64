"""A model hub on loopback: repository metadata, lists, and files behind a redirect to a second address.

The second address stands for the hub's storage: other host and port, no credentials wanted. `faults` are switches
that a test may set at any time; `served` counts body bytes, `requests` what was asked with which headers.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PIECE = 64 * 1024


@dataclass
class Faults:
    """What goes wrong when files are delivered. `times`: for so many answers; -1 for ever."""

    times: int = -1
    cut_after: int | None = None  # body bytes, then the connection is closed
    stall_after: int | None = None  # body bytes, then nothing more comes
    corrupt_at: int | None = None  # offset in the file of a byte that is flipped
    ignore_range: bool = False  # 200 and the whole file
    wrong_content_range: bool = False
    lose_content_range: bool = False
    new_etag: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    expired: bool = False  # the storage address answers 403
    pause_s: float = 0.0  # before each 64 KiB

    def any_left(self) -> bool:
        return self.times != 0


@dataclass
class Repo:
    """A repository: files, and what the hub says of it."""

    files: dict[str, bytes]
    sha: str = "c" * 40
    gated: bool = False
    pipeline_tag: str | None = "text-generation"
    license: str | None = "apache-2.0"
    downloads: int = 0
    base_model: str | None = None
    lie_sha256: str | None = None  # a published sum that is stale

    def info(self, name: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for path, data in self.files.items():
            digest = self.lie_sha256 or hashlib.sha256(data).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": "b" * 40}
            if not path.endswith((".json", ".md", ".txt")):
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        tags = [f"license:{self.license}"] if self.license else []
        return {"id": name, "modelId": name, "sha": self.sha, "siblings": siblings, "gated": self.gated and "auto",
                "pipeline_tag": self.pipeline_tag, "tags": tags, "downloads": self.downloads}  # fmt: skip


class HubServer:
    """Both addresses in threads of this process, for the time of a `with` block."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.after: dict[int, Faults] = {}  # faults that set in with the n-th answer of the storage, from 0
        self.answers = 0
        self.at_once = self.most_at_once = 0  # bodies on their way
        self.most_allowed = 10**9  # more are refused with 429
        self.token: str | None = None  # wanted for gated repositories
        self.served = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # hub or storage, path, headers
        self.half_way = threading.Event()  # set once `half_way_at` bytes were served
        self.half_way_at = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._hub = self._listen("hub")
        self._storage = self._listen("storage")

    def _listen(self, place: str) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.owner = self  # type: ignore[attr-defined]
        server.place = place  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[assignment]  # clients are killed on purpose
        return server

    def __enter__(self) -> HubServer:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self._storage.server_address[1]}"

    def secure_storage(self, context: ssl.SSLContext) -> None:
        """From now on the second address speaks TLS."""
        plain = self._storage.get_request

        def accept() -> tuple[socket.socket, Any]:
            connection, address = plain()
            connection.settimeout(10)
            return context.wrap_socket(connection, server_side=True), address  # refused by a client: OSError, go on

        self._storage.get_request = accept  # type: ignore[method-assign]

    def asked(self, place: str) -> list[dict[str, str]]:
        """Headers of the requests for files at one of the two addresses."""
        return [h for p, path, h in self.requests if p == place and ("/resolve/" in path or p == "storage")]

    def count(self, size: int) -> None:
        with self._lock:
            self.served += size
            if self.half_way_at and self.served >= self.half_way_at:
                self.half_way.set()

    def take_faults(self) -> Faults:
        with self._lock:
            self.faults = self.after.get(self.answers, self.faults)
            self.answers += 1
            if not self.faults.any_left():
                return Faults()
            self.faults.times -= 1
            return self.faults

    def enter(self) -> bool:
        """A body begins, unless there are too many."""
        with self._lock:
            if self.at_once >= self.most_allowed:
                return False
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return True

    def leave(self) -> None:
        with self._lock:
            self.at_once -= 1

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> HubServer:
        return self.server.owner  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        place = self.server.place  # type: ignore[attr-defined]
        self.owner.requests.append((place, self.path, {k.lower(): v for k, v in self.headers.items()}))
        path = unquote(urlsplit(self.path).path)
        if place == "storage":
            self._deliver(path)
        elif path == "/api/models":
            self._list()
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._answer(404, {})

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _json(self, document: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _list(self) -> None:
        filters = parse_qs(urlsplit(self.path).query).get("filter", [])
        base = next((f.removeprefix("base_model:quantized:") for f in filters if f.startswith("base_model:")), None)
        found = [r.info(n) for n, r in self.owner.repos.items() if base is None or r.base_model == base]
        self._json(sorted(found, key=lambda i: -i["downloads"]))

    def _info(self, name: str, revision: str | None) -> None:
        repo = self.owner.repos.get(name)
        if repo is None:
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", repo.sha):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._json(repo.info(name))

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.owner.repos.get(name)
        if repo is None or path not in repo.files or revision not in ("main", repo.sha):
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
        elif repo.gated and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        else:
            self._answer(302, {"Location": f"{self.owner.storage_url}/{name}/{path}?signature=secret"})

    def _deliver(self, path: str) -> None:
        org, repo, name = path.lstrip("/").split("/", 2)
        data = self.owner.repos[f"{org}/{repo}"].files[name]
        faults = self.owner.take_faults()
        if faults.status is not None:
            self._answer(faults.status, faults.headers)
        elif faults.expired:
            self._answer(403, {})
        elif not self.owner.enter():
            self._answer(429, {})
        else:
            try:
                self._body(data, faults)
            finally:
                self.owner.leave()

    def _body(self, data: bytes, faults: Faults) -> None:
        etag = '"' + hashlib.sha256(data).hexdigest()[:16] + ("-new" if faults.new_etag else "") + '"'
        asked = self._range(len(data), etag, faults)
        first, end = asked if asked is not None else (0, len(data))
        if first >= len(data):
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        body = bytearray(data[first:end])
        if faults.corrupt_at is not None and first <= faults.corrupt_at < end:
            body[faults.corrupt_at - first] ^= 0xFF
        self.send_response(200 if asked is None else 206)
        if asked is not None and not faults.lose_content_range:
            shown = first + 7 if faults.wrong_content_range else first
            self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        self.end_headers()
        self._send(body, faults)

    def _range(self, size: int, etag: str, faults: Faults) -> tuple[int, int] | None:
        """The bytes asked for, from and to before; None: all of them."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or faults.ignore_range or (condition is not None and condition != etag):
            return None
        return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size

    def _send(self, body: bytearray, faults: Faults) -> None:
        ends = [e for e in (faults.cut_after, faults.stall_after) if e is not None]
        end = min([len(body), *ends])
        for start in range(0, end, _PIECE):
            if faults.pause_s:
                self.owner.wait(faults.pause_s)
            piece = body[start : min(start + _PIECE, end)]
            self.wfile.write(piece)
            self.owner.count(len(piece))
        if end < len(body):
            self.close_connection = True
            if faults.stall_after is not None:
                self.owner.wait(60)
