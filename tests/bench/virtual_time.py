"""An event loop whose clock jumps: where everything waits, time goes to the next timer at once.

What a script says shall take 30 seconds takes none, and its figures are exact however busy the machine is. Sockets are
real: before a jump the loop looks once more, for a moment, whether something is under way on one of them, since what
was written to the loopback may take as long to arrive.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_UNDER_WAY_S = 0.0005


class _Selector(selectors.DefaultSelector):
    """Never waits for a timer, but passes its time."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        ready = super().select(_UNDER_WAY_S if timeout is not None else 5)
        if not ready and timeout is not None:
            self.passed_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.passed_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; `now` of this module is its clock."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()
