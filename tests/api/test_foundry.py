"""The exact forms that clients written for Foundry Local read: both generations of its REST service."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from api.server import Server, text_of
from localfoundry import __version__

ENTRY_KEYS = {
    "name": str, "displayName": str, "modelType": str, "providerType": str, "uri": str, "version": str,
    "promptTemplate": dict, "publisher": str, "task": str, "testModel": bool, "runtime": dict, "fileSizeMb": int,
    "modelSettings": dict, "alias": str, "supportsToolCalling": bool, "license": str, "licenseDescription": str,
    "parentModelUri": str, "maxOutputTokens": int, "minFLVersion": str,
}  # fmt: skip
PROVIDERS = {"CPUExecutionProvider", "WebGpuExecutionProvider", "CUDAExecutionProvider", "QNNExecutionProvider"}


def test_every_catalog_entry_has_every_key_of_its_type(server: Server) -> None:
    """One bad entry empties the whole list for some clients."""
    listed: list[dict[str, Any]] = server.get("/foundry/list")
    assert len(listed) > 10
    for entry in listed:
        assert {key: type(value) for key, value in entry.items()} == ENTRY_KEYS, entry["name"]
        assert entry["runtime"].keys() == {"deviceType", "executionProvider"}
        assert entry["runtime"]["deviceType"] in ("CPU", "GPU", "NPU")
        assert entry["runtime"]["executionProvider"] in PROVIDERS
        assert {"assistant", "prompt"} <= entry["promptTemplate"].keys()
        assert entry["modelSettings"] == {"parameters": []}
        name, _, version = entry["name"].rpartition(":")
        assert name
        assert version == entry["version"]
    names = [entry["name"] for entry in listed]
    assert len(names) == len(set(names))
    assert "fake:1" in names, "what was imported is listed as well"


def test_cache_and_status_of_the_first_generation(server: Server) -> None:
    folder = str(server.settings.models_dir)
    assert server.get("/foundry/cache") == {"location": folder}
    status = server.get("/openai/status")
    assert status["endpoints"] == status["Endpoints"] == [server.url]
    assert status["modelDirPath"] == status["ModelDirPath"] == folder
    assert status["pipeName"] is status["PipeName"] is None
    assert status["isAutoRegistrationResolved"] is status["IsAutoRegistrationResolved"] is True
    assert isinstance(status["autoRegistrationStatus"], str)


def test_models_are_loaded_and_unloaded_by_get_with_an_empty_body(server: Server) -> None:
    def empty(path: str) -> None:
        answer = server.http.get(path)
        assert (answer.status_code, answer.content) == (200, b"")

    empty("/openai/unloadall")
    assert "fake:1" in server.get("/openai/models")
    assert server.get("/openai/loadedmodels") == []
    empty("/openai/load/fake:1?ttl=600&ep=CPU")
    assert server.get("/openai/loadedmodels") == ["fake:1"]
    assert server.loaded("fake")["ttl_s"] == 600  # type: ignore[index]
    empty("/openai/load/fake:1?timeout=30")
    assert server.loaded("fake")["ttl_s"] == 30  # type: ignore[index]
    empty("/openai/unload/fake:1?force=false")
    assert server.get("/openai/loadedmodels") == []
    empty("/openai/load/fake")
    empty("/openai/unloadall")
    assert server.get("/openai/loadedmodels") == []


def test_sdks_that_load_two_models_keep_both(server: Server) -> None:
    server.fake("beside")
    for name in ("fake:1", "beside:1"):
        server.get(f"/openai/load/{name}")
    assert sorted(server.get("/openai/loadedmodels")) == ["beside:1", "fake:1"]
    server.get("/openai/unloadall")


def test_loading_what_is_not_downloaded_says_the_words_that_sdks_look_for(server: Server) -> None:
    answer = server.http.get("/openai/load/phi-4-mini?ttl=600")
    assert answer.status_code == 404
    assert "No OpenAIService provider found for modelName" in answer.text


@pytest.mark.parametrize("ttl", ["-1", "soon", "1e3", "9" * 30])
def test_a_time_to_live_that_is_none_is_refused(server: Server, ttl: str) -> None:
    answer = server.http.get(f"/openai/load/fake:1?ttl={ttl}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "ttl"


def test_the_gpu_of_the_first_generation(server: Server) -> None:
    assert server.get("/openai/getgpudevice") == 0
    assert server.http.get("/openai/setgpudevice/0").content == b""


def test_the_second_generation(server: Server) -> None:
    assert server.get("/status") == {
        "modelCachePath": str(server.settings.models_dir),
        "endpoints": [server.url],
        "pid": server.state.pid,
    }
    server.get("/openai/unloadall")
    assert server.get("/models/load/fake") == {"status": "loaded"}
    assert server.get("/models/load/fake:1") == {"status": "already_loaded"}
    assert server.get("/models/loaded") == ["fake:1"]
    assert server.get("/models/unload/fake") == {"status": "unloaded"}
    assert server.get("/models/unload/fake") == {"status": "not_loaded"}


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health(server: Server, path: str) -> None:
    health = server.get(path)
    assert health.keys() == {"status", "uptime", "version", "memory_usage"}
    assert health["status"] == "ok"
    assert health["uptime"] > 0
    assert health["version"] == __version__
    assert 10_000_000 < health["memory_usage"] < 1_000_000_000


def test_the_list_of_models(server: Server) -> None:
    listed = server.get("/v1/models")
    assert listed["object"] == "list"
    entry = next(m for m in listed["data"] if m["id"] == "fake:1")
    assert entry["object"] == "model"
    assert entry["parent"] == "fake"
    assert isinstance(entry["created"], int)
    assert isinstance(entry["maxInputTokens"], int)
    assert isinstance(entry["maxOutputTokens"], int)
    assert entry["toolCalling"] is entry["vision"] is False
    assert server.get("/v1/models/fake") == server.get("/v1/models/fake:1") == entry
    assert server.http.get("/v1/models/no-such-model").status_code == 404


def test_a_download_of_what_is_in_no_catalog_ends_with_an_object_that_says_so(server: Server) -> None:
    """By then the status is 200; SDKs read the last line. A path sent over HTTP is not read either."""
    for body in ({"model": {"Name": "no-such-model:4"}}, {"Model": {"name": "/etc/passwd"}}):
        answer = server.http.post("/openai/download", json=body)
        assert answer.status_code == 200
        last = json.loads(answer.text.splitlines()[-1])
        assert last.keys() == {"success", "errorMessage", "error"}
        assert last["success"] is False
        assert "no model is called" in last["errorMessage"]


@pytest.mark.parametrize("body", [{}, {"model": {}}, {"model": {"Name": 5}}, {"model": {"Name": ""}}])
def test_a_download_without_a_name_is_refused(server: Server, body: object) -> None:
    assert server.post("/openai/download", body, 400)["error"]["param"] == "model"


def test_what_is_loaded_as_our_own_command_line_reads_it(server: Server) -> None:
    server.chat("fake", max_tokens=1)
    (loaded,) = server.get("/foundry/ps")
    assert loaded["id"] == "fake:1"
    assert loaded["state"] == "ready"
    assert loaded["engine"] == "fake"
    assert loaded["memory"]["process"] > 1_000_000
    assert Path(loaded["socket"]).stat().st_uid == os.getuid()
    assert Path(loaded["socket"]).parent.stat().st_mode & 0o777 == 0o700


def test_requests_as_tutorials_make_them(server: Server) -> None:
    """From Python's `requests`, and with a character set in the content type as PowerShell sends it."""
    import requests

    body = {"model": "fake", "messages": [{"role": "user", "content": "Explain edge AI."}], "max_tokens": 2}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        assert text_of(answer.json()) == "token token"
    as_powershell = server.http.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert text_of(as_powershell.json()) == "token token"
