"""When requests are sent. Closed loop: so many streams, each sends when its last answer is there. Open loop: requests
come when they are due, whatever became of the earlier ones, as users do.

In an open loop time counts from when a request was due: a server that stalls delays the sending of nothing here, and
what it makes wait is measured as waiting (coordinated omission). What is outstanding is bounded all the same, or a dead
server would fill the memory; a request that the bound holds back is late, and its lateness is in its times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

MAX_OUTSTANDING = 512
LATE_S = 0.010  # sent later than due by more than this is counted as late: the measuring did not keep up

T = TypeVar("T")
Ask = Callable[[int, float | None], Awaitable[T]]


async def closed_loop(ask: Ask[T], count: int, concurrency: int) -> None:
    """`ask(seq, None)` for each of `count`, `concurrency` at a time until they are all sent."""
    left = iter(range(count))

    async def stream() -> None:
        for seq in left:
            await ask(seq, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(stream())


async def open_loop(
    ask: Ask[T], arrivals: Sequence[float], now: Callable[[], float], drain_s: float, outstanding: int = MAX_OUTSTANDING
) -> list[tuple[int, float]]:
    """`ask(seq, due)` at each of `arrivals`, seconds from now. Returns what was not answered `drain_s` after the last.

    Those are (seq, due), cancelled or never sent, and are results as well: of a server that does not keep up.
    """
    began = now()
    room = asyncio.Semaphore(outstanding)
    tasks: dict[int, asyncio.Task[None]] = {}

    async def one(seq: int, due: float) -> None:
        try:
            await ask(seq, due)
        finally:
            room.release()

    async def send() -> None:
        for seq, offset in enumerate(arrivals):
            due = began + offset
            await asyncio.sleep(max(due - now(), 0))
            await room.acquire()
            tasks[seq] = asyncio.create_task(one(seq, due))
        await asyncio.gather(*tasks.values())

    answered = True
    try:
        async with asyncio.timeout(arrivals[-1] + drain_s):
            await send()
    except TimeoutError:
        answered = False
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    if answered:
        return []
    return [(seq, began + offset) for seq, offset in enumerate(arrivals) if seq not in tasks or tasks[seq].cancelled()]
