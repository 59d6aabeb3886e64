"""A small client of the local service for the command line. Starting the service is `instance.py`'s.

Errors that the service reports come back as the exceptions they were there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import httpx2

from localfoundry import errors
from localfoundry.errors import FoundryError, ServiceError

_CONNECT_TIMEOUT_S = 5.0


class ServiceClient:
    """Use as an async context manager. `url` without a slash at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        # The service is on this machine: no proxy from the environment may come between.
        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        self._http = httpx2.AsyncClient(base_url=url, timeout=timeout, trust_env=False)

    async def __aenter__(self) -> ServiceClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The decoded answer. Raises the error that the service reports, ServiceError where it cannot be reached."""
        with _reachable():
            return _decoded(await self._http.get(path))

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        """As `get`, with a JSON body."""
        with _reachable():
            return _decoded(await self._http.post(path, json=body))

    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncIterator[dict[str, Any]]:
        """Events of a streamed answer. Leaving the iteration early closes the connection, which stops the model."""
        with _reachable():
            async with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    await response.aread()
                    _decoded(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line[len("data: ") :])
                        if "error" in event:
                            raise _as_exception(event["error"])
                        yield event


@contextlib.contextmanager
def _reachable() -> Any:
    try:
        yield
    except httpx2.HTTPError as exc:
        raise ServiceError(
            f"the service did not answer: {exc or type(exc).__name__}", hint="foundry service status"
        ) from exc


def _decoded(response: httpx2.Response) -> Any:
    if response.status_code == 200:
        return response.json() if response.content else None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise ServiceError(f"the service answered with status {response.status_code}") from None
    raise _as_exception(error)


def _as_exception(error: Mapping[str, Any]) -> FoundryError:
    """The class with that code, carrying the message and the hint of the service."""
    kinds: list[type[FoundryError]] = [FoundryError]
    for kind in kinds:  # grows while it is walked: the tree, breadth first
        kinds.extend(kind.__subclasses__())
    kind = next((k for k in kinds if k.code == error.get("code")), errors.ServiceError)
    exception = kind.__new__(kind)
    FoundryError.__init__(exception, str(error.get("message")), hint=error.get("hint"), param=error.get("param"))
    return exception
