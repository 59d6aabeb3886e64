"""Endpoints over TLS, through proxies and past them: what is trusted, what is told, and where a key goes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Foundry
from localfoundry.chat.target import Target, is_this_machine
from localfoundry.errors import InvalidSetting
from localfoundry.quality.ask import Endpoint, Heard
from quality.answering_server import AnsweringServer, Say, parrot
from tls_network import HOST, Proxy, authority

KEY = "sk-very-secret-0123456789"
BODY = {"model": "m", "messages": [{"role": "user", "content": "say 7"}]}
DEADLINE_S = 30


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The authority of a private network is trusted, by SSL_CERT_FILE; the context of a server in it."""
    pem, context = authority(tmp_path / "network")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    return context


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name of the private network is the loopback's address."""
    real: Callable[..., Any] = socket.getaddrinfo

    def found(host: str | bytes | None, *arguments: Any, **options: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if text == HOST else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def port_of(server: AnsweringServer) -> str:
    return server.url.rpartition(":")[2]


async def heard_from(url: str, secret: str = KEY) -> Heard:
    async with asyncio.timeout(DEADLINE_S), Endpoint(Target(url, secret=secret), 10) as endpoint:
        return await endpoint.ask(BODY)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_an_authority_of_ones_own_is_trusted_through_ssl_cert_file(network: ssl.SSLContext, host: str) -> None:
    """Also for an address of this machine: what is reached without a proxy is checked all the same."""
    async with AnsweringServer(parrot).running(network) as server:
        heard = await heard_from(f"https://{host}:{port_of(server)}/v1")
    assert (heard.error, heard.reply.text) == (None, "7")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_a_certificate_that_is_not_trusted_is_refused_with_what_to_set(
    network: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    other, _ = authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    async with AnsweringServer(parrot).running(network) as server:
        heard = await heard_from(f"https://{host}:{port_of(server)}")
    assert f"the certificate of {host} is not trusted: " in (heard.error or "")
    assert "SSL_CERT_FILE=FILE names the authority" in (heard.error or "")
    assert heard.final and server.requests == []


@pytest.mark.usefixtures("names")
async def test_a_certificate_for_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, context = authority(tmp_path / "network", host="elsewhere.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with AnsweringServer(parrot).running(context) as server:
        heard = await heard_from(f"https://{HOST}:{port_of(server)}")
    assert "is not trusted" in (heard.error or "")
    assert server.requests == []


async def test_a_file_of_certificates_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InvalidSetting, match="cannot be read") as caught:
        Endpoint(Target(f"https://{HOST}"))
    assert "SSL_CERT_FILE" in str(caught.value.hint)


@pytest.mark.parametrize("credentials", [None, "me:pass-word-of-mine"])
async def test_tls_goes_through_the_tunnel_of_a_proxy_and_the_key_inside_it(
    network: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, credentials: str | None
) -> None:
    async with Proxy(credentials).running() as proxy, AnsweringServer(parrot).running(network) as server:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//{credentials}@") if credentials else proxy.url)
        heard = await heard_from(f"https://{HOST}:{port_of(server)}/v1")
    assert (heard.error, heard.reply.text) == (None, "7")
    (head,) = proxy.seen
    assert head.startswith(f"CONNECT {HOST}:{port_of(server)} ")
    assert KEY not in head and "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize(("scheme", "variable"), [("https", "HTTPS_PROXY"), ("http", "HTTP_PROXY")])
async def test_a_proxy_that_wants_credentials_says_what_to_set_and_nothing_of_those_it_got(
    network: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str
) -> None:
    context = network if scheme == "https" else None
    async with Proxy("me:right").running() as proxy, AnsweringServer(parrot).running(context) as server:
        monkeypatch.setenv(variable, proxy.url.replace("//", "//me:wrong-pass-word@"))
        heard = await heard_from(f"{scheme}://{HOST}:{port_of(server)}")
    assert f"{variable}=http://NAME:PASSWORD@HOST:PORT" in (heard.error or "")
    assert "wrong-pass-word" not in (heard.error or "") and "407" in (heard.error or "")
    assert heard.final and server.requests == []


async def test_a_proxy_that_is_gone_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy().running() as proxy:
        address = proxy.url
    monkeypatch.setenv("HTTPS_PROXY", address.replace("//", "//me:pass-word@"))
    heard = await heard_from(f"https://{HOST}")
    assert f"no connection to {HOST} (through the proxy {address.removeprefix('http://')})" in (heard.error or "")
    assert "pass-word" not in (heard.error or "") and heard.lasting and not heard.final


@pytest.mark.usefixtures("names")
async def test_no_proxy_goes_past_it(network: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy().running() as proxy, AnsweringServer(parrot).running(network) as server:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "test")
        heard = await heard_from(f"https://{HOST}:{port_of(server)}")
    assert (heard.error, proxy.seen) == (None, [])


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_this_machine_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    async with Proxy().running() as proxy, AnsweringServer(parrot).running() as server:
        monkeypatch.setenv(variable, proxy.url)
        heard = await heard_from(server.url)
        named = await heard_from(server.url.replace("127.0.0.1", "localhost"))
    assert (heard.error, named.error, proxy.seen) == (None, None, [])


@pytest.mark.parametrize(
    ("host", "this"),
    [("localhost", True), ("models.localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
     ("example.com", False), ("localhost.example.com", False), ("10.0.0.1", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_the_loopback_is_known_by_name_and_by_address(host: str, this: bool) -> None:
    assert is_this_machine(host) is this


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_its_end_is_named_without_what_is_secret_in_it(status: int) -> None:
    """The key would go along to whoever stands there, and on to a POST that was not meant for it."""
    async with AnsweringServer(parrot).running() as other:
        to = f"{other.url}/v1/chat/completions?token=abc"
        async with AnsweringServer(lambda _: Say(status=status, location=to)).running() as server:
            heard = await heard_from(server.url)
    assert other.requests == []
    assert f"--endpoint {other.url}/v1" in (heard.error or "")
    assert "abc" not in (heard.error or "") and heard.final


LINES = {
    "bench": ["bench", "--rounds", "1", "--max-tokens", "4"],
    "eval": ["eval", "--suite", "chat", "--lang", "en", "--items", "1"],
    "compare": ["compare", "--rounds", "2", "--max-tokens", "4", "--eval", "--items", "1"],
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_every_command_takes_the_same_way(
    foundry: Foundry, network: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    """A private authority behind a proxy with a password; neither that nor the key is told."""
    async with Proxy("me:pass-word").running() as proxy, AnsweringServer(parrot).running(network) as server:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:pass-word@"))
        monkeypatch.setenv("OUR_KEY", KEY)
        place = f"https://{HOST}:{port_of(server)}/v1"
        models = ("--endpoint", place, "--model", "a", "--endpoint", place, "--model", "b", "--api-key-env", "OUR_KEY")
        done = await asyncio.to_thread(foundry, *line, *models, "--json")
    assert done.code == 0, done.err
    assert {body["model"] for body in server.bodies} == {"a", "b"}
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert all(head.startswith("CONNECT ") and KEY not in head for head in proxy.seen) and proxy.seen
    assert KEY not in done.out + done.err and "pass-word" not in done.out + done.err
