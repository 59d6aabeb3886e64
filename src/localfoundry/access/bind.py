"""Where the service listens, what that means, and how its own machine finds and trusts it."""

from __future__ import annotations

import ipaddress
import secrets
import time
from dataclasses import dataclass, field

from localfoundry.access.keys import PREFIX, KeyFile
from localfoundry.config import Settings
from localfoundry.errors import UnsafeBind

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Bind:
    """A service's address and rules, fixed for as long as it runs. The owner token is this account's own way in."""

    host: str
    port: int
    tls: bool
    keys_required: bool
    insecure: bool
    owner_token: str = field(default_factory=lambda: f"{PREFIX}owner_{secrets.token_urlsafe(32)}", repr=False)

    @property
    def url(self) -> str:
        """Where a program on this machine reaches it: an address that means all of them is none to connect to."""
        host = _ANY.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"


def is_loopback(address: str) -> bool:
    """Whether an IP address, as the socket has it, can be reached from this machine only."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def allowed(settings: Settings, address: str, *, insecure: bool) -> tuple[bool, bool]:
    """Whether keys are required at this bound address, and whether it is open without them (`--insecure`).

    Raises UnsafeBind where others could reach it and nobody has a key, BadKeyFile.
    """
    local = is_loopback(address)
    required = settings.require_key == "always" or not (local or insecure)
    now = time.time()
    keys = KeyFile(settings.keys_file).read()
    if not local and required and all(key.expired(now) for key in keys):
        raise UnsafeBind(
            f"host = {settings.host!r} lets other machines reach the service, and there is no API key that is valid",
            hint="foundry key create NAME   (or, for everyone who can reach it: foundry service start --insecure)",
        )
    return required, insecure and not local and not required
