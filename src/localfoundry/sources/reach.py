"""Where a redirect may lead: from a public host to public hosts only.

A hub that was taken over, or a file on it, could otherwise send this machine to ask its own network: the router, other
services on loopback, the address under which a cloud gives its credentials away. A hub that is itself in the private
network (`HF_ENDPOINT`) was put there on purpose and may redirect within it. Names are looked up before they are asked;
a name whose owner changes its address in the moment between is not caught, and such a request still carries no
credentials. Where only a proxy can resolve names, only addresses written as such are judged here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

from localfoundry.errors import SourceRefused

if TYPE_CHECKING:
    import httpx2


async def check_redirect(home: httpx2.URL, target: httpx2.URL, source: str) -> None:
    """Raises SourceRefused where `target` is in a private network and `home`, the address first asked, is not."""
    if target.host == home.host or not await is_private(target.host) or await is_private(home.host):
        return
    raise SourceRefused(
        f"{source} redirects to {target.host}, which is an address of this machine or its private network; "
        "that is refused",
        hint="if the hub is meant to be there, set HF_ENDPOINT to it",
    )


async def is_private(host: str) -> bool:
    """Whether a host is, or any of its addresses is, none of the public internet's. Unknown names are not."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_private(str(entry[4][0])) for entry in found)


def _is_private(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(parsed, "ipv4_mapped", None) or parsed
    return not inner.is_global or inner.is_multicast
