"""Through a proxy, past it, and with a certificate authority of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hub_server import HubServer
from localfoundry import config
from localfoundry.errors import SourceUnreachable
from localfoundry.sources.network import open_client
from localfoundry.sources.plan import PlannedFile
from localfoundry.sources.resolve import resolve
from localfoundry.store.download import Limits, fetch
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from tiny_gguf import tiny_gguf

DATA = tiny_gguf(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
FAST = Limits(stall_s=5, attempts=2, backoff_s=0.01)


class Proxy:
    """Forwards plain requests one by one and tunnels `CONNECT`; `seen` are the request lines."""

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.seen: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            line, _, rest = head.partition(b"\r\n")
            self.seen.append(line.decode())
            method, target, _ = line.decode().split()
            if self.status is not None:
                client.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
                return
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                first, answer = b"", b"HTTP/1.1 200 Connection established\r\n\r\n"
            else:
                url = urlsplit(target)
                host, port = str(url.hostname), str(url.port)
                path = url.path + (f"?{url.query}" if url.query else "")
                first, answer = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode() + rest, b""
            with socket.create_connection((host, int(port))) as server:
                server.sendall(first)
                client.sendall(answer)
                self._pump(client, server)

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        while True:
            for ready in select.select([one, other], [], [], 10)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (other if ready is one else one).sendall(data)


async def whole_pull() -> None:
    settings = config.load()
    store = Store(settings.models_dir)
    manifest = await pull(store, await resolve("org/tiny-GGUF", settings=settings), limits=FAST)
    assert store.main_file(manifest).read_bytes() == DATA


async def test_a_pull_goes_through_the_proxy(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foundry Local #46, #323."""
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        await whole_pull()
    hosts = {urlsplit(line.split()[1]).netloc for line in proxy.seen}
    assert hosts == {urlsplit(hub.url).netloc, urlsplit(hub.storage_url).netloc}


async def test_no_proxy_goes_past_it(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await whole_pull()
    assert proxy.seen == []


async def get(url: str, part: Path) -> str:
    file = PlannedFile("tiny.gguf", url=url, size_bytes=len(DATA), sha256=SHA256)
    async with open_client(stall_s=5) as client:
        return (await fetch(client, file, part, limits=FAST, origin=urlsplit(url).netloc)).sha256


async def test_a_proxy_that_is_gone_is_named(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:
        address = proxy.url
    monkeypatch.setenv("HTTP_PROXY", address.replace("//", "//me:secret@"))
    with pytest.raises(SourceUnreachable, match=r"2 times in a row") as caught:
        await get(f"{hub.storage_url}/org/tiny-GGUF/tiny-Q4_0.gguf", tmp_path / "x.part")
    assert f"the proxy {urlsplit(address).netloc}" in caught.value.message
    assert "secret" not in caught.value.message


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A folder with ca.pem, and server.pem with its key, signed by that authority for localhost."""
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Our CA",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    openssl(folder, "req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", "server.pem")  # fmt: skip
    return folder


@pytest.fixture
def secure(hub: HubServer, authority: Path) -> str:
    """The address of a file on the storage, which now speaks TLS with the certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    hub.secure_storage(context)
    return f"{hub.storage_url.replace('http:', 'https:')}/org/tiny-GGUF/tiny-Q4_0.gguf"


async def test_an_authority_of_ones_own_is_trusted_through_ssl_cert_file(
    secure: str, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    assert await get(secure, tmp_path / "x.part") == SHA256


async def test_an_unknown_authority_is_refused_with_what_to_set(
    secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(SourceUnreachable, match=r"certificate .* is not trusted") as caught:
        await get(secure, tmp_path / "x.part")
    assert "SSL_CERT_FILE" in str(caught.value.hint)
    assert not (tmp_path / "x.part").read_bytes()


async def test_tls_goes_through_the_tunnel_of_the_proxy(
    secure: str, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert await get(secure, tmp_path / "x.part") == SHA256
    assert {line.split()[0] for line in proxy.seen} == {"CONNECT"}


async def test_a_proxy_that_wants_credentials_says_so(
    secure: str, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localfoundry.errors import SourceRefused

    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    with Proxy(status=407) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(SourceRefused) as caught:
            await get(secure, tmp_path / "x.part")
    assert "HTTPS_PROXY" in str(caught.value.hint)
