"""Searching the hub, against a small server that answers as the hub does, or does not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from localfoundry.errors import InvalidSetting, SourceRefused, SourceUnreachable
from localfoundry.sources.search import HubModel, search_hub

REPOSITORIES = [
    {
        "_id": "1",
        "id": "MaziyarPanahi/Qwen3-0.6B-GGUF",
        "modelId": "MaziyarPanahi/Qwen3-0.6B-GGUF",
        "author": "MaziyarPanahi",
        "downloads": 1000,
        "likes": 3,
        "lastModified": "2026-04-28T10:00:00.000Z",
        "gated": False,
        "pipeline_tag": "text-generation",
        "tags": [
            "gguf", "base_model:Qwen/Qwen3-0.6B", "base_model:quantized:Qwen/Qwen3-0.6B", "license:apache-2.0",
        ],
    },
    {"id": "org/gated", "gated": "manual", "tags": ["safetensors", "license:llama3.2"]},
    {"id": "bare"},
]  # fmt: skip


class Hub(ThreadingHTTPServer):
    """Answers /api/models; `status` and `body` say how, `asked` keeps what came."""

    daemon_threads = True
    status = 200
    body: bytes | None = None
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub = self.server
        assert isinstance(hub, Hub)
        parts = urlsplit(self.path)
        hub.asked.append((parts.path, parse_qs(parts.query), self.headers.get("authorization")))
        if hub.silent:
            hub.closing.wait(30)
            return
        body = json.dumps(REPOSITORIES).encode() if hub.body is None else hub.body
        self.send_response(hub.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    yield server
    server.closing.set()
    server.shutdown()
    thread.join(10)
    server.server_close()


async def test_what_the_hub_tells_of_a_repository(hub: Hub) -> None:
    first, gated, bare = await search_hub("qwen", fmt="gguf", limit=7)
    assert first == HubModel(
        repo="MaziyarPanahi/Qwen3-0.6B-GGUF",
        publisher="MaziyarPanahi",
        downloads=1000,
        likes=3,
        updated_at="2026-04-28T10:00:00.000Z",
        task="text-generation",
        license="apache-2.0",
        base_models=("Qwen/Qwen3-0.6B",),
        formats=("gguf",),
    )
    assert (gated.gated, gated.license, gated.downloads, gated.formats) == (True, "llama3.2", None, ("safetensors",))
    assert (bare.repo, bare.gated, bare.license) == ("bare", False, None)


async def test_what_is_asked_of_the_hub(hub: Hub) -> None:
    await search_hub("qwen 3", fmt="onnx", sort="date", limit=7)
    ((path, query, authorization),) = hub.asked
    assert path == "/api/models"
    assert (query["search"], query["filter"], query["sort"], query["limit"]) == (
        ["qwen 3"],
        ["onnx"],
        ["lastModified"],
        ["7"],
    )
    assert {"downloads", "tags", "gated"} <= set(query["expand"])
    assert authorization is None


async def test_no_format_asks_for_none_and_the_limit_holds(hub: Hub) -> None:
    assert len(await search_hub("qwen", limit=2)) == 2
    assert "filter" not in hub.asked[0][1]
    assert hub.asked[0][1]["sort"] == ["downloads"]


async def test_the_token_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    await search_hub("a")
    await search_hub("a", token="hf_given")
    assert [asked[2] for asked in hub.asked] == ["Bearer hf_environment", "Bearer hf_given"]


async def test_a_token_that_cannot_be_sent_is_not_printed(hub: Hub) -> None:
    with pytest.raises(InvalidSetting, match="token") as caught:
        await search_hub("a", token="hf_geheim\n")
    assert "geheim" not in str(caught.value)


async def test_offline_asks_nobody(hub: Hub) -> None:
    with pytest.raises(SourceUnreachable, match="offline"):
        await search_hub("a", offline=True)
    assert hub.asked == []


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets the port
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SourceUnreachable, match="no answer from"):
            await search_hub("a")


async def test_a_hub_that_never_answers(hub: Hub) -> None:
    hub.silent = True
    with pytest.raises(SourceUnreachable, match=r"none within 0\.2 s"):
        await search_hub("a", timeout_s=0.2)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_hub_that_says_no(hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(SourceRefused, match=str(status)):
        await search_hub("a")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_hub_that_cannot_now_is_asked_once(hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(SourceUnreachable, match=str(status)):
        await search_hub("a")
    assert len(hub.asked) == 1


@pytest.mark.parametrize("body", [b"<html>login</html>", b'{"error": "x"}', b'[{"id": 1}]', b'[{"id": "\xff"}]', b""])
async def test_an_answer_that_is_no_list_of_models(hub: Hub, body: bytes) -> None:
    """A captive portal or a proxy answers 200 with a page of its own."""
    hub.body = body
    with pytest.raises(SourceRefused, match="not the hub's"):
        await search_hub("a")


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "nonsense://127.0.0.1:1"])
async def test_a_proxy_that_cannot_be_used(hub: Hub, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library answers these with a ValueError of its own before anything is sent."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidSetting, match="proxy"):
        await search_hub("a")


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://example.invalid", "http://host:port"])
async def test_an_endpoint_that_is_no_address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(InvalidSetting, match="HF_ENDPOINT"):
        await search_hub("a")
