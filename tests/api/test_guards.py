"""Every route has its scope on purpose; pages of other origins; and what tokens do to a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from api.server import Server
from localfoundry import config
from localfoundry.access.bind import Bind
from localfoundry.access.keys import KeyFile
from localfoundry.api import exchange
from localfoundry.api.app import ErrorShape, create_app
from localfoundry.api.gate import Authenticate, Gate
from localfoundry.api.scopes import CHANGE, PUBLIC, TABLE, Access, guarded
from localfoundry.catalog.lookup import Catalog
from localfoundry.service.service import Service
from localfoundry.store.store import Store

New = Callable[..., Server]
PAGE = "https://app.example.com"


def all_routes(tmp_path: Path) -> list[Route]:
    """The routes of the application as it is served."""
    settings = config.load({"home": tmp_path})
    service = Service(settings, Catalog.load(), Store(settings.models_dir), tmp_path)
    gate = Gate(settings, Bind("127.0.0.1", 1, False, False, False))
    layer: Any = create_app(service, lambda: None, gate=gate)
    while not isinstance(layer, Router):
        layer = layer.app
    routes: list[Route] = layer.routes
    return routes


def test_every_route_is_in_the_table_and_behind_its_guard(tmp_path: Path) -> None:
    """A route that nobody thought about needs `admin`; this test makes somebody think about it."""
    routes = all_routes(tmp_path)
    assert len(routes) > 20
    for route in routes:
        assert route.path in TABLE, f"{route.path} has no scope in api/scopes.py"
        assert type(route.app).__name__ == "_Guard"


def test_what_anyone_may_ask_is_health_alone() -> None:
    assert {path for path, access in TABLE.items() if access is PUBLIC} == {"/health", "/v1/health"}


def test_everything_but_inference_that_posts_is_for_admins(tmp_path: Path) -> None:
    for route in all_routes(tmp_path):
        if "POST" in (route.methods or ()) and not route.path.startswith("/v1/"):
            assert TABLE[route.path] == CHANGE, route.path


def test_a_route_that_is_not_in_the_table_needs_admin(tmp_path: Path) -> None:
    gate = Gate(config.load({"home": tmp_path}), Bind("127.0.0.1", 1, False, False, False))
    (made,) = guarded([Route("/new", lambda request: JSONResponse({}))], gate)
    assert made.app.access == Access(frozenset({"admin"}), changes=True)  # type: ignore[attr-defined]


# Pages of other origins


@pytest.fixture(scope="module")
def open_to_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("home"), FOUNDRY_ALLOWED_ORIGINS=f"{PAGE},http://localhost:3000")
    made.fake("fake", tokens_per_second=2000)
    yield made.start()
    made.stop()


def cors(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_without_the_setting_there_is_no_cross_origin_access(server: Server) -> None:
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = server.http.options("/v1/chat/completions", headers=preflight)
    assert answer.status_code == 403
    assert not cors(answer)
    for headers in ({}, {"Origin": server.url}):
        answer = server.http.get("/v1/models", headers=headers)
        assert not cors(answer)


def test_a_page_of_an_allowed_origin_may_ask(open_to_page: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
    answer = open_to_page.http.options("/v1/chat/completions", headers={"Origin": PAGE, **asked})
    assert answer.status_code == 204
    assert cors(answer) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "authorization, x-stainless-os",
        "access-control-max-age": "600",
        "access-control-expose-headers": cors(answer)["access-control-expose-headers"],
    }
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answer = open_to_page.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert cors(answer)["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in answer.headers
    error = open_to_page.http.post("/v1/chat/completions", json={}, headers=headers)
    assert error.status_code == 400
    assert cors(error)["access-control-allow-origin"] == PAGE, "a page may read its errors"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:444", "http://app.example.com", "https://app",
     "https://x.app.example.com", PAGE.upper(), f"{PAGE}/", "http://localhost:30000", "*"],
)  # fmt: skip
def test_origins_are_compared_exactly(open_to_page: Server, origin: str) -> None:
    for method in ("OPTIONS", "GET", "POST"):
        answer = open_to_page.http.request(
            method, "/v1/models", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
        )
        assert answer.status_code == 403
        assert not cors(answer)
        assert answer.headers["vary"] == "Origin"


def test_two_origins_are_none(open_to_page: Server) -> None:
    headers = [("Origin", PAGE), ("Origin", "https://evil.example")]
    assert open_to_page.http.get("/v1/models", headers=headers).status_code == 403


def test_nothing_is_changed_by_a_get_from_any_page(open_to_page: Server) -> None:
    """Foundry Local's clients load and unload by GET, which a page sends without asking first."""
    paths = ("/openai/unloadall", "/openai/load/fake", "/models/unload/fake", "/models/load/fake")
    for headers in (
        {"Origin": PAGE},
        {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},  # an address bar, or a link in a mail
        {"Referer": f"{PAGE}/page"},  # a browser that knows no Sec-Fetch-Site
        {"Referer": "https://evil.example/"},
        {"Referer": "http://["},
    ):
        for path in paths:
            for method in ("GET", "HEAD"):
                assert open_to_page.http.request(method, path, headers=headers).status_code == 403, (path, headers)
    _, secret = KeyFile(open_to_page.settings.keys_file).create("admin", ("admin",))
    with_key = {"Origin": PAGE, "Authorization": f"Bearer {secret}"}
    assert open_to_page.http.get("/openai/unloadall", headers=with_key).json()["error"]["code"] == "host_not_allowed"
    own = {"Referer": f"{open_to_page.url}/", "Sec-Fetch-Site": "same-origin"}
    assert open_to_page.http.get("/openai/load/fake", headers=own).status_code == 200
    assert open_to_page.http.get("/openai/unloadall").status_code == 200


def test_an_allowed_page_may_chat_and_for_more_it_needs_a_key(open_to_page: Server) -> None:
    """To let a chat page in is not to let it stop the service or fetch gigabytes."""
    for path in ("/foundry/load", "/foundry/unload", "/openai/download", "/shutdown"):
        answer = open_to_page.http.post(path, json={"model": "fake"}, headers={"Origin": PAGE})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "insufficient_scope"
    _, secret = KeyFile(open_to_page.settings.keys_file).create("page", ("admin",))
    headers = {"Origin": PAGE, "Authorization": f"Bearer {secret}"}
    assert open_to_page.http.post("/foundry/load", json={"model": "fake"}, headers=headers).status_code == 200


def test_a_page_does_not_get_around_the_host(open_to_page: Server) -> None:
    headers = {"Origin": PAGE, "Host": "app.example.com", "Access-Control-Request-Method": "GET"}
    assert open_to_page.http.options("/v1/models", headers=headers).status_code == 403


# Tokens


async def test_tokens_of_finished_answers_close_the_limit(tmp_path: Path) -> None:
    settings = config.load({"home": tmp_path, "require_key": "always"})
    gate = Gate(settings, Bind("127.0.0.1", 1, False, True, False))
    _, secret = KeyFile(settings.keys_file).create("app", tokens_per_minute=100)
    spend = {"prompt": 30, "completion": 25}

    async def answer(request: Request) -> JSONResponse:
        known = exchange.of(request.scope)
        known.prompt_tokens, known.completion_tokens = spend["prompt"], spend["completion"]
        return JSONResponse({})

    def app(headers: dict[str, str]) -> httpx2.AsyncClient:
        routes = guarded([Route("/v1/chat/completions", answer, methods=["POST"])], gate)
        whole = ErrorShape(Authenticate(Router(routes), gate), [gate.spent])
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(whole), base_url="http://x", headers=headers)

    async with app({"Authorization": f"Bearer {secret}"}) as client:
        answers = [await client.post("/v1/chat/completions") for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 429, 429]
    assert answers[1].headers["x-ratelimit-remaining-tokens"] == "45"
    error = answers[2].json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "110 of 100 tokens per minute" in error["message"]
    assert answers[2].headers["x-ratelimit-remaining-tokens"] == "0"
    assert 50 <= int(answers[2].headers["retry-after"]) <= 61


def test_limits_of_keys_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """One meter a key: making and revoking keys for weeks must not grow the service."""
    settings = config.load({"home": tmp_path, "require_key": "always"})
    gate = Gate(settings, Bind("127.0.0.1", 1, False, True, False))
    file = KeyFile(settings.keys_file)
    for n in range(20):
        key, secret = file.create(f"k{n}", requests_per_minute=5)
        scope = {"headers": [(b"authorization", f"Bearer {secret}".encode())]}
        gate.metered(gate.caller(scope), None)  # type: ignore[arg-type]
        file.revoke(key.name)
    assert len(gate._meters) <= 2
