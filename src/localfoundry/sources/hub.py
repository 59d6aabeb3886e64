"""The hub's HTTP API: where it is, who we are to it, one GET, and what its refusals mean.

Our own client and not `huggingface_hub`'s: that one sets no timeout for lists, repeats a refused connection for half a
minute, cannot be cancelled while it waits in a thread, and does not use the system's certificates. It is used for the
token, which people have given to it already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from localfoundry.errors import InvalidSetting, SourceError, SourceRefused, SourceUnreachable

if TYPE_CHECKING:
    import httpx2

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 20.0
_REDIRECTS = 5
_T = TypeVar("_T")


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, read now and not at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT


def authorization(token: str | None = None) -> dict[str, str]:
    """The header for `token`, or for HF_TOKEN or the stored one; empty without any. Raises InvalidSetting."""
    if token is None:
        from huggingface_hub import get_token

        token = get_token()
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        # The HTTP library would refuse it too, and print the token while doing so.
        raise InvalidSetting("the hub token holds characters that no token has", hint="check HF_TOKEN")
    return {"Authorization": f"Bearer {token}"}


async def get(
    path: str,
    query: Mapping[str, str | Sequence[str]],
    *,
    headers: Mapping[str, str],
    offline: bool,
    timeout_s: float = TIMEOUT_S,
    refusal: Callable[[httpx2.Response], SourceError] | None = None,
) -> bytes:
    """The body of one answer. `refusal` says what a 4xx means to the caller.

    Raises SourceUnreachable, SourceRefused (or what `refusal` gives), InvalidSetting.
    """
    if offline:
        raise SourceUnreachable(
            f"{endpoint()} was not asked: network use is switched off (offline)",
            hint="foundry model list --cached shows what is on this disk",
        )
    import httpx2

    from localfoundry.sources.network import follow, open_client

    try:
        async with open_client(stall_s=timeout_s) as client:
            params = {key: value if isinstance(value, str) else list(value) for key, value in query.items()}
            address = str(httpx2.URL(endpoint() + path, params=params))
            answer, _ = await follow(client, address, own=headers, every={}, redirects=_REDIRECTS, source=endpoint())
            await answer.aread()
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
        raise InvalidSetting(f"HF_ENDPOINT is not an address: {exc}", hint=f"for example {DEFAULT_ENDPOINT}") from exc
    except httpx2.HTTPError as exc:
        late = f"none within {timeout_s:g} s" if isinstance(exc, httpx2.TimeoutException) else ""
        raise SourceUnreachable(
            f"no answer from {endpoint()}: {late or exc or type(exc).__name__}",
            hint="check the network and HTTPS_PROXY; what is on this disk still works",
        ) from exc
    status = answer.status_code
    if status == 429 or status >= 500:
        raise SourceUnreachable(f"{endpoint()} cannot answer now: HTTP {status}", hint="try again later")
    if not answer.is_success:
        raise (
            refusal(answer)
            if refusal
            else SourceRefused(f"{endpoint()} answers HTTP {status}", hint="check HF_ENDPOINT and HF_TOKEN")
        )
    return answer.content


def decode(body: bytes, kind: type[_T]) -> _T:
    """An answer as what it should be. Raises SourceRefused where it is something else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise SourceRefused(
            f"{endpoint()} answers with something that is not the hub's: {exc}", hint="check HF_ENDPOINT"
        ) from exc
