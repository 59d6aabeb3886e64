"""Redirects from the public internet into a private network; and the names that look public and are not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import pytest

from localfoundry.errors import SourceRefused
from localfoundry.sources import hub
from localfoundry.sources.network import follow
from localfoundry.sources.reach import check_redirect, is_private

NAMES = {
    "hub.example": ["93.184.215.14"],
    "cdn.example": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "151.101.1.1"],
    "inside.example": ["10.0.0.5"],
    "both.example": ["151.101.1.1", "127.0.0.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses as numbers are looked up for real, names only in `NAMES`."""
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host in NAMES:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in NAMES[host]]
        if host.endswith(".example"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "169.254.169.254", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "0.0.0.0",
     "::1", "fe80::1", "fd00::1", "::ffff:169.254.169.254", "2130706433", "0x7f000001", "127.1", "224.0.0.1",
     "inside.example", "both.example"],
)  # fmt: skip
async def test_addresses_that_no_public_hub_has_business_with(host: str) -> None:
    assert await is_private(host)
    with pytest.raises(SourceRefused, match="private network") as caught:
        await _check("https://hub.example", f"https://{f'[{host}]' if ':' in host else host}/x")
    assert "HF_ENDPOINT" in str(caught.value.hint)


@pytest.mark.parametrize("host", ["hub.example", "cdn.example", "8.8.8.8", "2606:4700::1111", "unknown.example"])
async def test_public_ones_are_followed(host: str) -> None:
    assert not await is_private(host)
    await _check("https://hub.example", f"https://{f'[{host}]' if ':' in host else host}/x")


async def test_a_hub_that_is_inside_may_redirect_inside() -> None:
    await _check("http://127.0.0.1:8080", "http://10.0.0.5/x")
    await _check("http://inside.example", "http://127.0.0.1/x")


async def _check(home: str, target: str) -> None:
    await check_redirect(httpx2.URL(home), httpx2.URL(target), "the hub")


async def test_the_forbidden_address_is_never_asked() -> None:
    """The refusal comes before the request: the answer of an inner service would not be needed to do harm."""
    asked: list[str] = []

    def answers(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(302, headers={"location": "https://169.254.169.254/latest/meta-data/"})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answers)) as client:
        with pytest.raises(SourceRefused, match=r"169\.254\.169\.254"):
            await follow(client, "https://hub.example/a", own={}, every={}, redirects=5, source="the hub")
    assert asked == ["hub.example"]


async def test_the_hubs_own_answers_are_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata was once asked for with a client that followed redirects anywhere."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(301, headers={"location": "https://10.0.0.5/api/models/org/repo"})

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr("localfoundry.sources.network.open_client", lambda **_: client)
    with pytest.raises(SourceRefused, match=r"10\.0\.0\.5"):
        await hub.get("/api/models/org/repo", {}, headers={}, offline=False)


async def test_a_long_way_round_is_judged_at_every_step() -> None:
    steps = {"hub.example": "https://cdn.example/x", "cdn.example": "https://both.example/x"}

    def answers(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(307, headers={"location": steps[request.url.host]})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answers)) as client:
        with pytest.raises(SourceRefused, match=r"both\.example"):
            await asyncio.wait_for(
                follow(client, "https://hub.example/a", own={}, every={}, redirects=5, source="h"), 5
            )
