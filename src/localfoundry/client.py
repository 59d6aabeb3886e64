"""A small client of the local service for the command line. Starting the service is `instance.py`'s.

Errors that the service reports come back as the exceptions they were there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx2

from localfoundry import errors
from localfoundry.errors import FoundryError, ServiceError
from localfoundry.instance import ServiceState

if TYPE_CHECKING:
    import ssl

_CONNECT_TIMEOUT_S = 5.0


class ServiceClient:
    """Use as an async context manager, for the service that `state` tells of, with all rights of its account."""

    def __init__(self, state: ServiceState) -> None:
        # The service is on this machine: no proxy from the environment may come between.
        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        self._http = httpx2.AsyncClient(
            base_url=state.url, timeout=timeout, trust_env=False, headers=authorization(state), verify=trust(state)
        )

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


def authorization(state: ServiceState) -> dict[str, str]:
    return {"Authorization": f"Bearer {state.owner_token}"} if state.owner_token else {}


def trust(state: ServiceState) -> ssl.SSLContext | bool:
    """What to check the service's certificate with: that it is the very one the state file holds, and in date.

    The name in it does not count, since the address here is this machine's own and the certificate may be for another.
    """
    if state.certificate is None:
        return True
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is its own anchor, whoever issued it
    context.load_verify_locations(cadata=state.certificate)
    return context


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
