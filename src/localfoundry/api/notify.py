"""Tells the service manager that started this process how it stands: systemd's protocol, one datagram a message.

A few lines of our own: the protocol is one `sendto`, and the libraries for it need the C library of systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1` or the like to `$NOTIFY_SOCKET`; False where nobody asked for it or listens. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.sendto(state.encode(), address)
        return True
    return False
