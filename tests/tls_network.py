"""A private network on the loopback: an authority with a server's certificate, and a proxy that knows every name."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "models.test"


def authority(folder: Path, host: str = HOST) -> tuple[Path, ssl.SSLContext]:
    """The file of a new authority, and what a server for `host` and 127.0.0.1 needs that is certified by it."""
    folder.mkdir(exist_ok=True)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _name("Our own authority")
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    alone = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = _builder(root, root, root_key).add_extension(constraints, True).add_extension(alone, True)
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = _builder(_name(host), root, key).add_extension(names, False).sign(root_key, hashes.SHA256())
    pem = folder / "authority.pem"
    pem.write_bytes(certificate.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    chain = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return pem, context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return made.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


class Proxy:
    """Tunnels `CONNECT` and passes plain requests on, to the loopback whatever the name; `seen` are the heads.

    `credentials`: NAME:PASSWORD that it wants, or else it answers 407.
    """

    def __init__(self, credentials: str | None = None) -> None:
        self._wanted = "basic " + b64encode(credentials.encode()).decode() if credentials else None
        self.seen: list[str] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.seen.append(head)
        method, place, rest = head.split(" ", 2)
        told = [line for line in head.split("\r\n") if line.lower().startswith("proxy-authorization: ")]
        if self._wanted and not any(line[21:].replace("Basic", "basic") == self._wanted for line in told):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        url = urlsplit(f"//{place}" if method == "CONNECT" else place)
        there, back = await asyncio.open_connection("127.0.0.1", url.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            back.write(f"{method} {url.path} {rest}".encode())
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
