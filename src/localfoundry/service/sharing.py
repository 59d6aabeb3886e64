"""Who is at a worker: many requests together, or one alone.

Requests share the context memory of their model. llama.cpp admits them without asking whether all will fit, and where
they do not, it ends every one of them ("Context size has been exceeded"), also those that would have fitted. A request
that ended so, and of which the client has seen nothing, is repeated alone: then the whole memory is its own, and what
fits the context at all is answered. The price is that others wait for it; it is paid only after such a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Sharing:
    """One worker's. Those who want to be alone go first, one after the other, so that they come to it at all."""

    def __init__(self) -> None:
        self._together = 0
        self._wanting = 0  # to be alone
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()  # nobody wants to be alone
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._together += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Not inside `together`: it would wait for itself."""
        self._wanting += 1
        self._open.clear()
        try:
            async with self._turn:
                await self._empty.wait()
                yield
        finally:
            self._wanting -= 1
            if not self._wanting:
                self._open.set()
