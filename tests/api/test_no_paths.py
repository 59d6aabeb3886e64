"""Errors over HTTP say nothing of where things lie on this machine; downloads over HTTP reach what was configured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.server import HELLO, Server
from localfoundry import config
from localfoundry.api.download import plan_for
from localfoundry.catalog.lookup import Catalog
from localfoundry.errors import SourceRefused
from localfoundry.service.service import Service
from localfoundry.store.store import Store
from localfoundry.wording import without_paths

New = Callable[..., Server]


def leaks(server: Server, text: str) -> list[str]:
    """What of this machine's paths stands in an answer."""
    named = [place for place in (str(server.home), str(Path.home()), server.state.socket_dir) if place in text]
    return named + re.findall(r"(?<![\w.:/])/(?:home|root|tmp|usr|var|etc|opt|proc|work)\b[^\s\"]*", text)


def provoke(server: Server) -> dict[str, httpx2.Response]:
    """Every way to fail that a client has, and some that a damaged disk has."""
    chat = "/v1/chat/completions"
    hostile = server.fake("hostile", fail_load=f"failed to load model from {server.home}/m.gguf: bad magic")
    missing, damaged, locked = (server.fake(f"{word}-model") for word in ("missing", "damaged", "locked"))
    for manifest in server.store.manifests():
        file = server.store.main_file(manifest)
        if manifest.alias == missing:
            file.unlink()
        if manifest.alias == damaged:
            file.chmod(0o600)
            file.write_bytes(b"\xff" * 50)
        if manifest.alias == locked:
            file.unlink()
            file.mkdir()

    def post(path: str, body: Any) -> httpx2.Response:
        return server.http.post(path, content=body if isinstance(body, bytes) else json.dumps(body))

    def ask(model: str) -> httpx2.Response:
        return post(chat, {"model": model, "messages": HELLO})

    return {
        **{f"chat {name}": ask(name) for name in (hostile, missing, damaged, locked, "phi-4-mni", "phi-4-mini")},
        **{
            f"chat {path}": ask(path) for path in ("/etc/passwd", "../../etc/passwd", f"{server.home}/x", "~/x", "\x00")
        },
        **{f"load {name}": post("/foundry/load", {"model": name}) for name in (hostile, missing, locked)},
        **{f"GET {name}": server.http.get(f"/openai/load/{name}") for name in (hostile, missing, "nothing")},
        **{f"second {name}": server.http.get(f"/models/load/{name}") for name in (hostile, damaged)},
        "bad json": post(chat, b'{"model": '),
        "bad type": post(chat, {"model": 5}),
        "device": post("/foundry/load", {"model": "fake", "device": "/dev/nvidia0"}),
        "model list": server.http.get("/v1/models/nothing"),
        "download": post("/openai/download", {"model": "qwen3-0.6b"}),
        "download local": post("/openai/download", {"model": "theirs"}),
        "download path": post("/openai/download", {"model": "/etc/passwd"}),
        "too large": post(chat, b" " * 200_000),
        "no route": server.http.get("/v1/none"),
    }


def test_no_error_names_a_path_of_this_machine(new_server: New, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.json"
    source = tmp_path / "theirs.fake.json"
    source.write_text("{}")
    variant = {"name": "theirs", "version": 1, "format": "fake", "source": str(source)}
    catalog.write_text(json.dumps({"models": [{"alias": "theirs", "tasks": ["chat"], "variants": [variant]}]}))
    server = new_server(FOUNDRY_MAX_BODY_BYTES=100_000, FOUNDRY_CATALOG=catalog, FOUNDRY_OFFLINE=1)
    server.fake("fake")
    server.start()
    for case, answer in provoke(server).items():
        sent = str(answer.request.content, "latin-1") + str(answer.request.url)
        found = [leak for leak in leaks(server, answer.text) if leak not in sent]
        assert not found, f"{case}: {answer.text}"
        assert answer.status_code >= 400 or "download" in case, case
        assert answer.status_code < 500, f"{case}: {answer.text}"


def test_the_words_of_the_engine_stay_useful(new_server: New) -> None:
    server = new_server()
    name = server.fake("hostile", fail_load=f"failed to load model from {server.home}/m.gguf: bad magic")
    server.start()
    message = server.error(name, 400)["message"]
    assert "m.gguf: bad magic" in message and str(server.home) not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot write /home/a b/c.gguf: No space left", "cannot write …/c.gguf: No space left"),
        ("there is no /v1/models here", "there is no /v1/models here"),
        ("from https://huggingface.co/org/repo/tmp/x", "from https://huggingface.co/org/repo/tmp/x"),
        ("'/tmp/x/y.gguf' and \"/usr/z\"", "'…/y.gguf' and \"…/z\""),
        ("path=/usr/lib/x,y", "path=…/x,y"),
        ("file:///etc/x.json", "…/x.json"),
        ("C:\\Users\\me\\x.gguf is bad", "…/x.gguf is bad"),
        ("org/repo/home/file", "org/repo/home/file"),
        ("hf:org/repo:Q4_K_M and 3/4 of it", "hf:org/repo:Q4_K_M and 3/4 of it"),
    ],
)
def test_paths_are_told_from_other_words_with_slashes(text: str, told: str) -> None:
    assert without_paths(text) == told


@given(
    st.lists(st.text("abcXYZ0189-_. éß", min_size=1, max_size=12), min_size=1, max_size=5), st.sampled_from("'\" (:=")
)
def test_the_folders_of_a_path_never_show(names: list[str], before: str) -> None:
    """Whatever their names: only the last part may stay."""
    folders = [name.strip() or "x" for name in names]
    told = without_paths(f"cannot read{before}/home/{'/'.join(folders)}/m.gguf: no")
    assert told == f"cannot read{before}…/m.gguf: no"


@given(st.text(max_size=300))
def test_any_text_is_taken(text: str) -> None:
    assert without_paths(without_paths(text)) == without_paths(text)


# Downloads


def download(server: Server, name: str) -> dict[str, Any]:
    answer = server.http.post("/openai/download", json={"model": {"Name": name}})
    last: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return last


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "file:/etc/passwd", "./x.gguf", "~/.ssh/id_rsa", "hf:org/repo", "org/repo:Q4_K_M", "org/repo",
     "http://169.254.169.254/latest/meta-data", "https://evil.example/m.gguf", "hf:169.254.169.254/x",
     "pypi:evil==1/m.gguf", "pypi:evil @ http://127.0.0.1/x==1/m", "..\\x", "hf-quantized:org/repo"],
)  # fmt: skip
def test_only_names_of_the_catalog_are_fetched_over_http(server: Server, name: str) -> None:
    """A web page, or a client with a key, must not make the service ask other hosts or read files."""
    before = sorted(path.name for path in server.settings.models_dir.rglob("*"))
    told = download(server, name)
    assert told["success"] is False
    assert "no model is called" in told["errorMessage"]
    assert sorted(path.name for path in server.settings.models_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("source", "allowed", "refused"),
    [
        ("{file}", "pypi,hf", "file"),
        ("file:{file}", "pypi,hf", "file"),
        ("hf:org/repo/m.gguf", "pypi", "hf"),
        ("pypi:thing==1/m.gguf", "hf", "pypi"),
        ("pypi:thing==1/m.gguf", ",", "pypi"),
    ],
)
async def test_the_catalog_of_a_user_opens_no_other_source(
    tmp_path: Path, source: str, allowed: str, refused: str
) -> None:
    file = tmp_path / "theirs.fake.json"
    file.write_text("{}")
    variant = {"name": "theirs", "version": 1, "format": "fake", "source": source.format(file=file)}
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps({"models": [{"alias": "theirs", "tasks": ["chat"], "variants": [variant]}]}))
    settings = config.load({"home": tmp_path, "allowed_sources": allowed})
    service = Service(settings, Catalog.load(catalog), Store(settings.models_dir), tmp_path)
    with pytest.raises(SourceRefused, match=rf"\({refused}\).*allowedSources"):
        await plan_for(service, "theirs")
