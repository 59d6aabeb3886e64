"""Re-encodings for loads: a process each, shared by those who want the same, ended by an unload. Scripts stand in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from localfoundry.errors import LoadFailed
from localfoundry.service.reencoding import Reencodings
from localfoundry.store.manifest import Manifest, StoredFile
from localfoundry.store.store import Store

SOURCE = Manifest("smol", 1, "smol", "pypi:x", "gguf", (StoredFile("a.gguf", 1, "0" * 64),), "2026-01-01T00:00:00Z")
WAITS = "import sys; print('0.4', flush=True); sys.stdin.read()"  # like the real one, it ends with its owner


def script(text: str) -> Callable[[Store, Manifest, str], tuple[str, ...]]:
    return lambda store, source, wanted: (sys.executable, "-c", text)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 looks at it from outside
            await asyncio.sleep(0.01)


async def test_those_who_want_the_same_share_one_and_see_how_far_it_is(tmp_path: Path) -> None:
    it = Reencodings(Store(tmp_path), script(WAITS))
    both = [asyncio.create_task(it.make(SOURCE, "Q8_0")) for _ in range(2)]
    await until(lambda: it.under_way and it.under_way[0].share)
    [making] = it.under_way
    assert making.words == "re-encoding to Q8_0, 40%"
    assert making.process is not None and making.process.stdin is not None
    making.process.stdin.close()
    await asyncio.gather(*both)
    assert (it.under_way, it.failed) == ([], {})


async def test_what_went_wrong_is_kept_so_that_it_is_not_tried_again_for_nothing(tmp_path: Path) -> None:
    it = Reencodings(Store(tmp_path), script("import sys; sys.exit('a line\\nthe disk is full')"))
    await it.make(SOURCE, "Q8_0")
    assert it.failed == {"smol:1": "the disk is full"}
    silent = Reencodings(Store(tmp_path), script("import os; os.kill(os.getpid(), 9)"))
    await silent.make(SOURCE, "Q8_0")
    assert silent.failed == {"smol:1": "its process ended with -9"}
    absent = Reencodings(Store(tmp_path), lambda store, source, wanted: (str(tmp_path / "nothing"),))
    await absent.make(SOURCE, "Q8_0")
    assert absent.failed == {"smol:1": "No such file or directory"}


async def test_an_unload_ends_it_and_those_who_wait_are_told(tmp_path: Path) -> None:
    it = Reencodings(Store(tmp_path), script(WAITS))
    waiting = asyncio.create_task(it.make(SOURCE, "Q8_0"))
    await until(lambda: it.under_way and it.under_way[0].share)
    process = it.under_way[0].process
    assert process is not None
    assert it.cancel(SOURCE.id)
    with pytest.raises(LoadFailed, match="smol:1 was unloaded while it was re-encoded to Q8_0"):
        await waiting
    assert not psutil.pid_exists(process.pid)
    assert (it.under_way, it.failed) == ([], {}), "a person ended it: the next load may make it"
    assert not it.cancel(SOURCE.id)


async def test_one_who_waits_may_go_and_it_goes_on_until_the_service_ends(tmp_path: Path) -> None:
    it = Reencodings(Store(tmp_path), script(WAITS))
    waiting = asyncio.create_task(it.make(SOURCE, "Q8_0"))
    await until(lambda: it.under_way and it.under_way[0].process)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(it.under_way) == 1
    async with asyncio.timeout(10):
        await it.close()
    assert it.under_way == []
