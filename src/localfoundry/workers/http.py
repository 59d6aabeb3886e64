"""HTTP/1.1 for workers: one request for each connection, answered plain or as a stream of events.

Raw protocols and not a framework, because this runs on the cores that the model runs on: an event is one write. There
is no waiting for slow readers: what a client has not read is bounded by the context, a few megabytes. The service is
the only client; where there are no Unix sockets it shows a secret, because any program can reach the port.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, cast

import httptools
import msgspec

from localfoundry.workers.generation import Refused

_MOST_HEAD = 65536
_MOST_BODY = 256 * 2**20
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Too Large", 500: "Error"}
_EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)

Application = Callable[["Connection", str, str, bytes], None]


class Connection(asyncio.Protocol):
    """One request and its answer. `gone` is called when the client leaves before its answer is complete."""

    def __init__(self, application: Application, secret: str | None) -> None:
        self.gone: Callable[[], None] | None = None
        self.begun = False  # something of the answer has been sent
        self._application = application
        self._secret = secret
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._url = b""
        self._authorization = b""
        self._body = bytearray()
        self._asked = False

    # Called by the transport.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end()
            return
        self._head_bytes += len(data)
        if not self._asked and self._head_bytes - len(self._body) > _MOST_HEAD:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.gone is not None:
            gone, self.gone = self.gone, None
            gone()

    # Called by the parser.
    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._authorization = value

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > _MOST_BODY:
            self.refuse(413, f"the body is larger than {_MOST_BODY} bytes")

    def on_message_complete(self) -> None:
        if self._asked:
            return
        self._asked = True
        if self._secret is not None and not self._shown(self._secret):
            self.refuse(401, "the secret is wrong", "authentication_error")
            return
        method = self._parser.get_method().decode("latin-1")
        path = self._url.partition(b"?")[0].decode("latin-1")
        try:
            self._application(self, method, path, bytes(self._body))
        except Refused as refused:
            self.refuse(400, str(refused), refused.kind, **refused.facts)
        except Exception:  # noqa: BLE001 one of a worker's two handlers: a request must not end the others
            traceback.print_exc(file=sys.stderr)
            self.refuse(500, "the worker failed on this request", "server_error")
        self._body.clear()

    def _shown(self, secret: str) -> bool:
        return hmac.compare_digest(self._authorization, b"Bearer " + secret.encode())

    # Called by whoever answers.
    def respond(self, status: int, body: Any) -> None:
        """The whole answer, as JSON."""
        data = msgspec.json.encode(body)
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self._end()

    def refuse(self, status: int, message: str, kind: str = "invalid_request_error", **facts: int) -> None:
        """An error in the API's shape; inside a stream it is the stream's last event."""
        error = {"error": {"code": status, "message": message, "type": kind, **facts}}
        if not self.begun:
            self.respond(status, error)
        else:
            self.send(b"data: " + msgspec.json.encode(error) + b"\n\n")
            self.finish()

    def send(self, events: bytes) -> None:
        """Events of a stream; the first ones begin it."""
        chunk = b"%x\r\n%b\r\n" % (len(events), events)
        if self.begun:
            self._write(chunk)
        else:
            self._write(_EVENTS + chunk)

    def finish(self) -> None:
        """The end of a stream."""
        self._write(b"0\r\n\r\n")
        self._end()

    def _write(self, data: bytes) -> None:
        self.begun = True
        if self._transport is not None:
            self._transport.write(data)

    def _end(self) -> None:
        self._asked = True
        self.gone = None
        if self._transport is not None:
            self._transport.close()


async def listen(application: Application, socket: str | None, port: int) -> asyncio.Server:
    """Answer on a Unix socket that only this user can reach, or on a loopback port with `FOUNDRY_WORKER_SECRET`."""
    loop = asyncio.get_running_loop()
    if not socket:
        secret = os.environ["FOUNDRY_WORKER_SECRET"]
        return await loop.create_server(lambda: Connection(application, secret), "127.0.0.1", port)
    return await loop.create_unix_server(lambda: Connection(application, None), socket, backlog=512)
