"""Sources on a package index: found in both of its forms, with their sum, and refused where something is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.build import native
from localfoundry.errors import ChecksumMismatch, SourceRefused, SourceUnreachable
from localfoundry.sources import sdist
from localfoundry.sources.plan import PlannedFile

PROJECT, BYTES = "some-project", b"sources" * 1000
SUM = hashlib.sha256(BYTES).hexdigest()


class Index(BaseHTTPRequestHandler):
    """One project; `form` is json or html."""

    form = "json"
    served = BYTES

    def do_GET(self) -> None:
        if self.path == "/simple/some-project/":
            names = ["some_project-9.0.0.tar.gz", "some_project-10.0.0.tar.gz", "some_project-11.0.0rc1.tar.gz",
                     "some_project-10.0.0-py3-none-any.whl", "some_project-12.0.0.tar.gz"]  # fmt: skip
            if self.form == "json":
                files = [{"filename": n, "url": f"/files/{n}", "hashes": {"sha256": SUM}, "size": len(BYTES),
                          "yanked": "12" in n} for n in names]  # fmt: skip
                self.answer(json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")
            else:
                text = "".join(f'<a href="../../files/{n}#sha256={SUM}"{" data-yanked" * ("12" in n)}>{n}</a>\n'
                               for n in names)  # fmt: skip
                self.answer(f"<html><body>{text}</body></html>".encode(), "text/html")
        elif self.path.startswith("/files/"):
            self.answer(self.served, "application/gzip")
        else:
            self.send_error(404)

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    """A package index of this machine, the only one that pip knows here."""

    class Handler(Index):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def planned(version: str | None = None) -> tuple[PlannedFile, str]:
    return asyncio.run(sdist.plan(PROJECT, version, config.load()))


@pytest.mark.parametrize("form", ["json", "html"])
def test_the_newest_final_version_is_found_with_its_sum(index: type[Index], form: str) -> None:
    index.form = form
    file, version = planned()
    assert (version, file.name, file.sha256) == ("10.0.0", "some_project-10.0.0.tar.gz", SUM)
    assert file.url is not None and file.url.endswith("/files/some_project-10.0.0.tar.gz")
    assert planned("9.0.0")[1] == "9.0.0"


def test_what_is_not_there_is_said(index: type[Index], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceRefused, match=r"it has 10\.0\.0, 9\.0\.0"):
        planned("8.0.0")
    with pytest.raises(SourceRefused, match="HTTP 404"):
        asyncio.run(sdist.plan("nobody", None, config.load()))
    with pytest.raises(SourceUnreachable, match="offline"):
        asyncio.run(sdist.plan(PROJECT, None, config.load({"offline": True})))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        planned()


def test_a_folder_that_pip_looks_into_serves_too(
    index: type[Index], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_project-10.5.0.tar.gz").write_bytes(b"x")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    file, version = planned()
    assert version == "10.5.0" and file.local == tmp_path / "some_project-10.5.0.tar.gz"


def test_wrong_bytes_are_never_accepted(index: type[Index], tmp_path: Path) -> None:
    whole = tmp_path / "source.tar.gz"
    index.served = BYTES[:-1] + b"?"
    with pytest.raises(ChecksumMismatch):
        native._download(planned()[0], whole, lambda share: None)
    assert not whole.exists()
    index.served = BYTES
    native._download(planned()[0], whole, lambda share: None)
    assert whole.read_bytes() == BYTES
