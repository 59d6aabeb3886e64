"""Many together or one alone, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from localfoundry.service.sharing import Sharing


async def _steps(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_alone_waits_for_the_others_and_keeps_new_ones_out() -> None:
    sharing = Sharing()
    seen = []
    leave = asyncio.Event()

    async def together(name: str) -> None:
        async with sharing.together():
            seen.append(name)
            await leave.wait()

    async def alone(name: str) -> None:
        async with sharing.alone():
            seen.append(name)
            await _steps()
            seen.append(f"end of {name}")

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(together("a"))
        tasks.create_task(together("b"))
        await _steps()
        tasks.create_task(alone("x"))
        tasks.create_task(alone("y"))
        await _steps()
        tasks.create_task(together("c"))
        await _steps()
        assert seen == ["a", "b"], "x waits for a and b, and c for x"
        leave.set()
    assert seen == ["a", "b", "x", "end of x", "y", "end of y", "c"]


@pytest.mark.parametrize("when", ["waiting", "inside"])
async def test_one_that_gives_up_lets_the_others_in(when: str) -> None:
    sharing = Sharing()

    async def alone() -> None:
        async with sharing.alone():
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with sharing.together() if when == "waiting" else contextlib.nullcontext():
            task = asyncio.create_task(alone())
            await _steps()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with sharing.together(), sharing.together():
            pass
