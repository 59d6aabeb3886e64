"""API keys over HTTP: who is let in, to what, to which models and how often; and that the owner's commands work on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from api.server import HELLO, Server, text_of
from localfoundry.access.keys import KeyFile

New = Callable[..., Server]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that wants a key of everyone, with the models `fake` and `other`."""
    made = Server(tmp_path_factory.mktemp("home"), FOUNDRY_REQUIRE_KEY="always")
    made.fake("fake", tokens_per_second=2000)
    made.fake("other", tokens_per_second=2000)
    yield made.start()
    made.stop()


_made = 0


def key(server: Server, *scopes: Any, **limits: Any) -> dict[str, str]:
    """The headers of a new key."""
    global _made
    _made += 1
    _, secret = KeyFile(server.settings.keys_file).create(f"key{_made}", scopes or ("inference",), **limits)
    return {"Authorization": f"Bearer {secret}"}


def chat(server: Server, headers: dict[str, str], model: str = "fake") -> httpx2.Response:
    body = {"model": model, "messages": HELLO, "max_tokens": 2}
    return server.http.post("/v1/chat/completions", json=body, headers=headers)


def code(answer: httpx2.Response) -> str:
    return str(answer.json()["error"]["code"])


def audit(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (server.settings.log_dir / "audit.log").read_text().splitlines()]


# Who is let in


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer not-needed"},
        {"Authorization": "Bearer lf_" + "A" * 43},
        {"Authorization": "Bearer lf_owner_" + "A" * 43},
        {"Authorization": "Bearer lf_\xe9"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic bGY6eA=="},
        {"api-key": "lf_x"},
        {"x-api-key": "x"},
    ],
)
def test_without_a_good_key_nobody_gets_in(locked: Server, headers: dict[str, str]) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/openai/unloadall")):
        answer = locked.http.request(method, path, headers=sent)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert code(answer) == "invalid_api_key"
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("form", ["Bearer", "bearer", "api-key", "x-api-key"])
def test_a_key_is_taken_in_every_header_that_sdks_use(locked: Server, form: str) -> None:
    secret = key(locked)["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": f"{form} {secret}"} if form.lower() == "bearer" else {form: secret}
    assert text_of(chat(locked, headers).json()) == "token token"
    both = {"Authorization": "Bearer not-needed", "x-api-key": secret}
    assert chat(locked, both).status_code == 200


def test_a_key_that_is_revoked_is_refused_from_the_next_request_on(locked: Server) -> None:
    file = KeyFile(locked.settings.keys_file)
    headers = key(locked)
    assert chat(locked, headers).status_code == 200
    file.revoke(file.read()[-1].name)
    assert code(chat(locked, headers)) == "invalid_api_key"


def test_the_openai_client_sees_its_own_errors(locked: Server) -> None:
    secret = key(locked, requests_per_minute=1)["Authorization"].removeprefix("Bearer ")
    import httpx

    def client(api_key: str) -> openai.OpenAI:
        plain = httpx.Client(trust_env=False)
        return openai.OpenAI(base_url=f"{locked.url}/v1", api_key=api_key, max_retries=0, http_client=plain)

    with client("sk-nothing") as made, pytest.raises(openai.AuthenticationError):
        made.models.list()
    with client(secret) as made:
        assert {m.id for m in made.models.list()} == {"fake:1", "other:1"}
        with pytest.raises(openai.RateLimitError):
            made.models.list()


def test_strangers_learn_that_it_is_alive_and_nothing_else(locked: Server) -> None:
    assert locked.get("/health") == {"status": "ok"}
    assert locked.get("/v1/health") == {"status": "ok"}
    assert locked.get("/health", headers=key(locked)).keys() > {"version", "uptime"}


def test_the_owners_commands_need_no_key(locked: Server) -> None:
    """The state file holds a token for the account that started the service, and nobody else can read it."""
    done = locked.command("model", "load", "fake")
    assert done.returncode == 0, done.stderr
    assert "fake:1" in locked.command("service", "ps").stdout
    assert "API keys are required" in locked.command("service", "status").stdout
    assert "API keys are required" in locked.command("status").stdout
    assert json.loads(locked.command("service", "status", "--json").stdout)["keysRequired"] is True
    assert locked.command("run", "fake", "--prompt", "x", "--max-tokens", "2").stdout.strip() == "token token"
    state = locked.settings.run_dir / "service.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert locked.state.owner_token not in repr(locked.state)


# To what


def test_a_key_for_inference_changes_nothing(locked: Server) -> None:
    headers = key(locked)
    for method, path in (
        ("GET", "/openai/load/fake"), ("GET", "/openai/unloadall"), ("HEAD", "/openai/unloadall"),
        ("GET", "/models/unload/fake"), ("POST", "/foundry/load"), ("POST", "/openai/download"),
        ("POST", "/shutdown"), ("GET", "/foundry/ps"), ("GET", "/foundry/cache"), ("GET", "//openai/unloadall"),
        ("GET", "/openai/%75nloadall"),
    ):  # fmt: skip
        answer = locked.http.request(method, locked.url + path, headers=headers)
        assert answer.status_code in (403, 404), path
        if method != "HEAD" and answer.status_code == 403:
            assert code(answer) == "insufficient_scope"
            assert "admin" in answer.json()["error"]["message"]
    for path in ("/v1/models", "/foundry/list", "/openai/status", "/status", "/openai/loadedmodels", "/models/loaded"):
        assert locked.http.get(path, headers=headers).status_code == 200


def test_a_key_for_admin_alone_asks_no_model(locked: Server) -> None:
    headers = key(locked, "admin")
    assert code(chat(locked, headers)) == "insufficient_scope"
    assert locked.get("/models/load/fake", headers=headers)["status"] in ("loaded", "already_loaded")
    assert chat(locked, key(locked, "inference", "admin")).status_code == 200


def test_folders_are_shown_to_those_who_could_move_them(locked: Server) -> None:
    folder = str(locked.settings.models_dir)
    reader, admin = key(locked), key(locked, "admin")
    for path, name in (("/openai/status", "modelDirPath"), ("/status", "modelCachePath")):
        assert locked.get(path, headers=reader)[name] == ""
        assert folder not in locked.http.get(path, headers=reader).text
        assert locked.get(path, headers=admin)[name] == folder


# To which models


@pytest.mark.parametrize("name", ["fake", "fake:1", "FAKE"])
def test_a_key_for_one_model_gets_no_other_under_any_name(locked: Server, name: str) -> None:
    headers = key(locked, models=(name,))
    assert chat(locked, headers, "fake").status_code == chat(locked, headers, "fake:1").status_code == 200
    for other in ("other", "other:1", "OTHER", " other"):
        answer = chat(locked, headers, other)
        assert answer.status_code in (403, 404), other
        assert code(answer) in ("model_not_allowed", "model_not_found")
    count = {"model": "other", "messages": HELLO}
    path = "/v1/chat/completions/tokenizer/encode/count"
    assert code(locked.http.post(path, json=count, headers=headers)) == "model_not_allowed"
    for path, body in (
        ("/v1/completions", {"model": "other", "prompt": "x"}),
        ("/v1/embeddings", {"model": "other", "input": "x"}),
    ):
        assert code(locked.http.post(path, json=body, headers=headers)) == "model_not_allowed"
    assert code(locked.http.get("/v1/models/other", headers=headers)) == "model_not_allowed"


def test_lists_show_only_what_a_key_is_for(locked: Server) -> None:
    locked.get("/openai/load/other", headers=key(locked, "admin"))
    headers = key(locked, models=("fake",))
    assert [m["id"] for m in locked.get("/v1/models", headers=headers)["data"]] == ["fake:1"]
    assert locked.get("/openai/models", headers=headers) == ["fake:1"]
    assert "other" not in str(locked.get("/openai/loadedmodels", headers=headers))
    assert "other" not in str(locked.get("/models/loaded", headers=headers))
    listed = [entry["name"] for entry in locked.get("/foundry/list", headers=headers)]
    assert "fake:1" in listed
    assert "other:1" not in listed


# How often


def test_requests_per_minute(locked: Server) -> None:
    headers = key(locked, requests_per_minute=2)
    first, second, third = (chat(locked, headers) for _ in range(3))
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [a.headers["x-ratelimit-remaining-requests"] for a in (first, second, third)] == ["1", "0", "0"]
    assert code(third) == "rate_limit_exceeded"
    assert 50 <= int(third.headers["retry-after"]) <= 61
    assert re.search(r"2 of 2 requests per minute", third.json()["error"]["message"])
    assert chat(locked, key(locked)).status_code == 200, "another key is not concerned"


# Where no key is required


def test_on_this_machine_a_key_is_not_needed_but_a_wrong_one_is_refused(server: Server) -> None:
    """SDKs insist on some key; somebody whose key was revoked must not go on as if nothing had happened."""
    for value in ("not-needed", "sk-123", "x" * 5000):
        assert chat(server, {"Authorization": f"Bearer {value}"}).status_code == 200
    answer = chat(server, {"Authorization": "Bearer lf_" + "A" * 43})
    assert answer.status_code == 401
    limited = key(server, requests_per_minute=1)
    assert chat(server, limited).status_code == 200
    assert chat(server, limited).status_code == 429
    assert chat(server, {}).status_code == 200


def test_keys_that_cannot_be_checked_let_nobody_in(new_server: New) -> None:
    server = new_server()
    server.fake("fake", tokens_per_second=2000)
    server.start()
    headers = key(server)
    server.settings.keys_file.chmod(0o644)
    for sent in (headers, {}):
        answer = chat(server, sent)
        assert answer.status_code == 400
        assert code(answer) == "bad_key_file"
        assert str(server.home) not in answer.text
    assert server.command("service", "ps").returncode == 0, "the owner is let in"
    server.settings.keys_file.chmod(0o600)
    assert chat(server, headers).status_code == 200
    server.settings.keys_file.chmod(0o644)
    server.stop()
    done = server.command("service", "start")
    assert done.returncode == 2
    assert "chmod 600" in done.stderr


# What is written down


def test_what_changes_something_is_in_the_audit_log(locked: Server) -> None:
    headers = key(locked, "admin")
    name = KeyFile(locked.settings.keys_file).read()[-1].name
    locked.http.get("/openai/unload/fake", headers=headers)
    locked.http.post("/foundry/load", json={"model": "fake"}, headers=headers)
    locked.http.get("/openai/load/nothing-like-this", headers=headers)
    chat(locked, key(locked))
    mine = [line for line in audit(locked) if line.get("by") == name]
    assert [(line["action"], line["status"], line.get("model"), line.get("error")) for line in mine] == [
        ("GET /openai/unload/{name:path}", 200, None, None),
        ("POST /foundry/load", 200, "fake:1", None),
        ("GET /openai/load/{name:path}", 404, None, "model_not_found"),
    ]
    assert mine[0]["path"] == "/openai/unload/fake"
    assert mine[0]["from"] == "127.0.0.1"
    assert re.fullmatch(r"[0-9a-f]{16}", mine[0]["request"])
    started = next(line for line in audit(locked) if line["action"] == "service started")
    assert (started["address"], started["keys_required"], started["insecure"]) == ("127.0.0.1", True, False)
    text = (locked.settings.log_dir / "audit.log").read_text()
    assert "lf_" not in text
    assert "chat/completions" not in str(mine), "what changes nothing"
    assert HELLO[0]["content"] not in text


def test_keys_made_and_revoked_are_in_the_audit_log(new_server: New, tmp_path: Path) -> None:
    server = new_server()
    made = server.command("key", "create", "app", "--model", "qwen2.5-0.5b", "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["key"].startswith("lf_")
    assert document["models"] == ["qwen2.5-0.5b"]
    assert document["scopes"] == ["inference"]
    listed = server.command("key", "list")
    assert "app" in listed.stdout
    assert document["key"] not in listed.stdout + server.command("key", "list", "--json").stdout
    assert server.command("key", "revoke", "app").returncode == 0
    assert server.command("key", "revoke", "app").returncode == 2
    assert [line["action"] for line in audit(server)] == ["key created", "key revoked"]
    assert document["key"] not in (server.settings.log_dir / "audit.log").read_text()
    assert server.command("key", "list").stdout == "No API keys\n"


def test_a_key_for_a_model_that_is_not_known_names_the_nearest(new_server: New) -> None:
    done = new_server().command("key", "create", "app", "--model", "phi-4-mni")
    assert done.returncode == 2
    assert "phi-4-mini" in done.stderr


def test_tokens_that_an_engine_counted_are_spent_from_the_key_that_asked(locked: Server) -> None:
    """Prompt and answer together, from the engine's own count: 3 words and 20 tokens at a time, of 40 a minute."""
    frugal = key(locked, tokens_per_minute=40)
    body = {"model": "fake", "messages": [{"role": "user", "content": "count these words"}], "max_tokens": 20}

    def ask(**more: object) -> httpx2.Response:
        return locked.http.post("/v1/chat/completions", json=body | more, headers=frugal)

    assert ask(stream=True).status_code == 200
    assert ask().status_code == 200
    refused = ask()
    assert (refused.status_code, code(refused)) == (429, "rate_limit_exceeded")
    assert "46 of 40 tokens per minute" in refused.json()["error"]["message"]
