"""Memory, hangs, crashes and queues of the running service: real worker processes of the fake engine."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from localfoundry import config
from localfoundry.catalog.lookup import Catalog
from localfoundry.errors import InsufficientMemory, LoadFailed, OutOfMemory, QueueFull, QueueTimeout, WorkerCrashed
from localfoundry.service import memory
from localfoundry.service.events import ModelEvent
from localfoundry.service.loading import LoadedModel
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.store.store import Store
from service.test_service import fake, until

MB = 1_000_000
KEEP = LoadOptions(retain=True)


@asynccontextmanager
async def service(**settings: object) -> AsyncIterator[Service]:
    given = config.load(settings)
    given.log_dir.mkdir(parents=True)
    made = Service(given, Catalog.load(), Store(given.models_dir), Path(tempfile.mkdtemp()))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what the machine has and what other programs use of it, in MB, instead of looking."""

    def say(total: int, used: int = 0) -> None:
        monkeypatch.setattr(memory, "_machine", lambda: (total * MB, used * MB))
        monkeypatch.setattr(memory, "private_bytes", lambda pid: 0)
        monkeypatch.setattr(memory, "resident_bytes", lambda pid: 0)

    return say


def kinds(service: Service) -> list[ModelEvent]:
    """Events from now on."""
    seen: list[ModelEvent] = []
    service.listeners.append(seen.append)
    return seen


async def test_what_does_not_fit_is_refused_with_numbers_and_nothing_is_unloaded(machine: Callable[..., None]) -> None:
    machine(1000, 100)
    async with service(memory_reserve_bytes=100 * MB) as it:
        small = await it.load(await fake(it, "small", memory_bytes=300 * MB, takes_bytes=300 * MB))
        with pytest.raises(InsufficientMemory) as refusal:
            await it.load(await fake(it, "large", memory_bytes=900 * MB))
        assert refusal.value.need_bytes == 900 * MB
        assert refusal.value.free_bytes == 800 * MB
        assert refusal.value.status == 400
        assert "needs 900" in refusal.value.message.replace(".0", "")
        assert it.models == [small]


async def test_idle_models_make_room_and_a_pinned_one_does_not(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0) as it:
        pinned = await it.load(
            await fake(it, "pinned", memory_bytes=300 * MB, takes_bytes=300 * MB), LoadOptions(retain=True, pinned=True)
        )
        old = await it.load(await fake(it, "old", memory_bytes=500 * MB, takes_bytes=500 * MB), KEEP)
        events = kinds(it)
        new = await it.load(await fake(it, "new", memory_bytes=600 * MB, takes_bytes=600 * MB), KEEP)
        assert it.models == [pinned, new]
        assert old.worker.exited.done(), "its memory must be free before the next load begins"
        assert [(e.kind, e.model) for e in events] == [("evicted", old.id), ("loaded", new.id)]
        with pytest.raises(InsufficientMemory, match=r"pinned: pinned:1 \(300") as refusal:
            await it.load(await fake(it, "more", memory_bytes=800 * MB), KEEP)
        assert "foundry model unload pinned:1" in str(refusal.value.hint)


async def test_what_was_measured_counts_for_the_next_load(machine: Callable[..., None]) -> None:
    """The prediction said 100 MB and the engine took 700: the second time that is known."""
    machine(1000)
    async with service(memory_reserve_bytes=0) as it:
        name = await fake(it, "liar", memory_bytes=100 * MB, takes_bytes=700 * MB)
        liar = await it.load(name, KEEP)
        assert liar.claim_bytes == 700 * MB
        assert it.memory() == {"limit": 1000 * MB, "others": 0, "reserve": 0, "claimed": 700 * MB, "free": 300 * MB}
        await it.unload(name)
        await it.load(
            await fake(it, "other", memory_bytes=400 * MB, takes_bytes=400 * MB), LoadOptions(retain=True, pinned=True)
        )
        with pytest.raises(InsufficientMemory) as refusal:
            await it.load(name, KEEP)
        assert refusal.value.need_bytes == 700 * MB


async def test_what_a_model_takes_while_it_loads_is_counted_once(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(1000, 400)
    monkeypatch.setattr(memory, "private_bytes", lambda pid: 400 * MB)  # all that is used is the loading worker's
    async with service(memory_reserve_bytes=0) as it:
        slow = await fake(it, "slow", memory_bytes=400 * MB, takes_bytes=0, load_s=1)
        loading = asyncio.create_task(it.load(slow, KEEP))
        await until(lambda: it._pids)
        other = await it.load(await fake(it, "other", memory_bytes=500 * MB, takes_bytes=0), KEEP)
        assert not loading.done(), "or nothing was shown"
        assert {(await loading).id, other.id} == {model.id for model in it.models}


async def test_a_load_that_fails_for_a_fault_of_ours_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    async def broken(model: LoadedModel) -> None:
        started.append(model.worker.pid)
        raise RuntimeError("a mistake")

    monkeypatch.setattr("localfoundry.service.conversations.restore", broken)
    async with service() as it:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError):
                await it.load(await fake(it, "one"))
        assert not psutil.pid_exists(started[0])
        assert it.models == []


async def test_a_failed_load_changes_nothing_for_the_others() -> None:
    async with service() as it:
        good = await it.load(await fake(it, "good"))
        with pytest.raises(LoadFailed):
            await it.load(await fake(it, "bad", fail_load="the tensor is crooked"))
        assert it.models == [good]
        assert not good.worker.exited.done()


async def test_out_of_memory_is_tried_once_more_without_the_idle_models() -> None:
    async with service() as it:
        idle = await it.load(await fake(it, "idle"))
        events = kinds(it)
        with pytest.raises(OutOfMemory, match="out of memory"):
            await it.load(await fake(it, "big", fail_load="out of memory: 7 bytes"), KEEP)
        assert idle.worker.exited.done()
        assert [e.kind for e in events] == ["load_failed", "evicted", "load_failed"]


async def test_a_model_that_does_not_load_is_not_started_again_at_every_request() -> None:
    async with service() as it:
        name = await fake(it, "bad", fail_load="the tensor is crooked")
        events = kinds(it)
        for _ in range(5):
            with pytest.raises(LoadFailed, match="the tensor is crooked"):
                async with it.lease(name):
                    pass
        assert len(events) == 1
        with pytest.raises(LoadFailed):
            await it.load(name)
        assert len(events) == 2, "a person who asks for the load gets it tried"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
async def test_a_worker_that_hangs_is_noticed_and_replaced() -> None:
    async with service(hang_timeout_s=1) as it:
        name = await fake(it, "one")
        model = await it.load(name)
        events = kinds(it)
        os.kill(model.worker.pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            await model.worker.exited
        assert [e.kind for e in events] == ["hung"]
        async with it.lease(name) as replaced:
            assert replaced.worker.pid != model.worker.pid


@pytest.mark.skipif(sys.platform == "win32", reason="workers listen on a port there")
async def test_a_worker_that_nobody_can_reach_is_replaced_too() -> None:
    async with service(hang_timeout_s=1) as it:
        model = await it.load(await fake(it, "one"))
        events = kinds(it)
        Path(model.worker.endpoint.path).unlink()  # noqa: ASYNC240 an entry of a folder in memory
        async with asyncio.timeout(10):
            await model.worker.exited
        assert [e.kind for e in events] == ["hung"]


async def test_a_worker_that_computes_for_long_is_left_alone() -> None:
    """Its heart beats between batches only: what counts is the time allowed, not one missed beat."""
    async with service(hang_timeout_s=6) as it:
        model = await it.load(await fake(it, "one"))
        os.kill(model.worker.pid, signal.SIGSTOP)
        before = model.last_beat
        await asyncio.sleep(2.5)
        os.kill(model.worker.pid, signal.SIGCONT)
        await until(lambda: model.last_beat > before)
        assert not model.worker.exited.done()


async def test_a_model_that_crashes_again_and_again_is_given_up_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localfoundry.service.scheduler._CRASH_RETRY_S", (0.0, 0.05))
    async with service() as it:
        name = await fake(it, "one")
        for _ in range(3):
            async with it.lease(name) as model:
                os.kill(model.worker.pid, signal.SIGKILL)
                await model.worker.exited
            await until(lambda: not it.models)
        with pytest.raises(WorkerCrashed, match="again and again; it is left alone for 60 s"):
            async with it.lease(name):
                pass
        assert (await it.load(name)).worker.state == "ready"


async def test_a_full_queue_and_a_long_wait_are_refused() -> None:
    async with service(queue_length=2, queue_timeout_s=1, parallel=1) as it:
        name = await fake(it, "one")
        release = asyncio.Event()

        async def use() -> None:
            async with it.lease(name):
                await release.wait()

        await it.load(name)
        busy = [asyncio.create_task(use()) for _ in range(3)]
        await until(lambda: it.models[0].in_flight == 3)
        late = [asyncio.create_task(use()) for _ in range(2)]
        await asyncio.sleep(0)
        assert it.waiting(it.models[0].id) == 2
        with pytest.raises(QueueFull):
            await use()
        for task in late:
            with pytest.raises(QueueTimeout, match="waited 1 s for a free place"):
                await task
        release.set()
        await asyncio.gather(*busy)


async def test_a_forced_unload_does_not_wait() -> None:
    async with service() as it:
        name = await fake(it, "one")
        async with it.lease(name) as model:
            async with asyncio.timeout(8):
                assert await it.unload(name, force=True)
            assert model.worker.exited.done()


async def test_an_unload_during_the_load_waits_for_it() -> None:
    async with service() as it:
        name = await fake(it, "one", load_s=0.3)
        loading = asyncio.create_task(it.load(name))
        await until(lambda: it._pids)
        assert await it.unload(name)
        model: LoadedModel = await loading
        assert model.worker.exited.done()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and scores of this kind are Linux's")
async def test_a_worker_is_limited_and_the_first_to_go() -> None:
    async with service() as it:
        model = await it.load(await fake(it, "one", memory_bytes=100 * MB))
        process = psutil.Process(model.worker.pid)
        limit = 200 * MB + 2 * 2**30
        assert process.rlimit(psutil.RLIMIT_DATA) == (limit, limit)
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        score = Path(f"/proc/{process.pid}/oom_score_adj").read_text()  # noqa: ASYNC240 a file of the kernel's
        assert score.strip() == "500"


async def test_what_is_chosen_for_one_model_holds_for_its_load_and_what_is_asked_wins() -> None:
    chosen = {"one": {"context": 2048, "ttl_s": 7, "parallel": 3, "pinned": True, "keep_state": True}}
    async with service() as it:
        it.reload(dataclasses.replace(it.settings, models=chosen))
        name = await fake(it, "one")
        plan = (await it.load(name)).resident.plan
        assert (plan.context, plan.ttl_s, plan.parallel, plan.pinned, plan.keep_state) == (2048, 7, 3, True, True)
        asked = LoadOptions(context=512, ttl_s=9, pinned=False, keep_state=False)
        plan = (await it.load(name, asked)).resident.plan
        assert (plan.context, plan.ttl_s, plan.parallel, plan.pinned, plan.keep_state) == (512, 9, 3, False, False)
        other = (await it.load(await fake(it, "two"))).resident.plan
        assert (other.context, other.ttl_s, other.parallel, other.pinned) == (8192, 600, 8, False)


async def test_the_machine_is_looked_at() -> None:
    async with service(memory_limit_bytes=2**34) as it:
        ledger = it.memory()
        assert ledger["limit"] == min(2**34, psutil.virtual_memory().total)
        assert 0 < ledger["others"] < psutil.virtual_memory().total
