"""The service without its HTTP API: real worker processes of the fake engine, decisions under contention."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.catalog.lookup import Catalog
from localfoundry.errors import InvalidRequest, LoadFailed, ModelNotCached, NotRunnable, ServiceStopping, UnknownModel
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.service.workload import LOOKED_AT
from localfoundry.sources.resolve import resolve
from localfoundry.store.pull import pull
from localfoundry.store.store import Store


async def fake(service: Service, name: str, **switches: object) -> str:
    """Import a fake model and return its alias."""
    source = service.settings.home / f"{name}.fake.json"
    source.write_text(json.dumps(switches))
    return (await pull(service.store, await resolve(str(source), settings=service.settings))).alias


async def until(condition: Callable[[], object], every_s: float = 0.01) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 looks at the service from outside, which has no event for it
            await asyncio.sleep(every_s)


async def test_two_models_wanted_at_once_are_both_served(running: Service) -> None:
    """Two first requests for two models once unloaded each other's model for ever before either could be used."""
    names = [await fake(running, "one"), await fake(running, "two")]

    async def use(name: str) -> str:
        async with running.lease(name) as model:
            return model.manifest.alias

    async with asyncio.timeout(10):
        for _ in range(3):
            assert await asyncio.gather(*map(use, names)) == names


async def test_concurrent_first_requests_load_once(running: Service) -> None:
    name = await fake(running, "one", load_s=0.2)
    loaded = await asyncio.gather(*(running.load(name) for _ in range(8)))
    assert len({model.worker.pid for model in loaded}) == 1


async def test_how_many_requests_come_at_once_is_seen_for_the_next_load(running: Service) -> None:
    name = await fake(running, "one")

    async def use(together: asyncio.Barrier) -> str:
        async with running.lease(name) as model:
            await together.wait()
            return model.id

    for at_once, profile in ((1, "chat"), (8, "throughput")):
        for _ in range(LOOKED_AT // at_once):
            together = asyncio.Barrier(at_once)
            [id_, *_] = await asyncio.gather(*(use(together) for _ in range(at_once)))
        assert running.planner.workload.profile(id_) == profile


async def test_a_switch_lets_the_answer_in_flight_end(running: Service) -> None:
    first, second = await fake(running, "one"), await fake(running, "two")
    async with running.lease(first) as model:
        assert (await running.load(second)).manifest.alias == second
        await until(lambda: model.state == "draining")
        assert not model.worker.exited.done()
    async with asyncio.timeout(5):
        await model.worker.exited
    assert [m.manifest.alias for m in running.models] == [second]


async def test_a_request_for_a_model_that_is_draining_loads_it_again(running: Service) -> None:
    """What drains takes no new work: a steady stream of requests would otherwise keep a switch waiting for ever."""
    first, second = await fake(running, "one"), await fake(running, "two")
    async with running.lease(first) as old:
        await running.load(second)
        await until(lambda: old.state == "draining")
        again = asyncio.create_task(running.load(first))
        await asyncio.sleep(0)
    assert (await again).worker.pid != old.worker.pid


async def test_cancelling_who_waits_neither_stops_the_load_nor_keeps_the_model_busy(running: Service) -> None:
    name = await fake(running, "one", load_s=0.3)

    async def use() -> None:
        async with running.lease(name):
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(use()) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    model = await running.load(name)
    assert model.in_flight == 0
    async with asyncio.timeout(5):
        assert await running.unload(name)


async def test_cancelling_in_the_moment_a_load_ends_gives_the_lease_back(running: Service) -> None:
    """The lease is given by the load, before its owner runs: an owner that is cancelled right then must return it."""
    name = await fake(running, "one")

    async def use() -> None:
        async with running.lease(name):
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await until(lambda: running.models, every_s=0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [model.in_flight for model in running.models] == [0]


async def test_retain_keeps_the_others_and_another_context_loads_again(running: Service) -> None:
    first, second = await fake(running, "one"), await fake(running, "two")
    one = await running.load(first)
    await running.load(second, LoadOptions(retain=True))
    assert len(running.models) == 2
    again = await running.load(first, LoadOptions(retain=True, context=512))
    assert again.context == 512
    assert again.worker.pid != one.worker.pid
    assert (await running.load(first, LoadOptions(retain=True))) is again


async def test_an_idle_model_is_unloaded_after_its_time_to_live_and_a_busy_one_is_not(running: Service) -> None:
    name = await fake(running, "one")
    model = await running.load(name, LoadOptions(ttl_s=1))
    async with running.lease(name), asyncio.timeout(5):
        await asyncio.sleep(1.3)
        assert not model.worker.exited.done()
    async with asyncio.timeout(4):
        await model.worker.exited
    assert running.models == []


async def test_a_crash_is_forgotten_and_the_next_load_works(running: Service) -> None:
    name = await fake(running, "one")
    model = await running.load(name)
    model.worker._process.kill()
    await model.worker.exited
    assert running.models == []
    assert model.worker.state == "crashed"
    assert not Path(model.worker.endpoint.path or "").exists(), "its socket is left behind"  # noqa: ASYNC240
    assert (await running.load(name)).worker.state == "ready"


async def test_a_failed_load_gives_the_engines_words_to_everyone_who_waits(running: Service) -> None:
    name = await fake(running, "bad", fail_load="the tensor is crooked")
    results = await asyncio.gather(running.load(name), running.load(name), return_exceptions=True)
    for result in results:
        assert isinstance(result, LoadFailed)
        assert "the tensor is crooked" in result.message
        assert result.hint == "foundry service logs bad"
    assert running.models == []


async def test_a_model_that_is_never_ready_is_given_up(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LOAD_TIMEOUT", "1")
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    service = Service(settings, Catalog.load(), Store(settings.models_dir), Path(tempfile.mkdtemp()))
    name = await fake(service, "slow", load_s=60)
    with pytest.raises(LoadFailed, match="not ready after 1 s"):
        await service.load(name)
    await service.close()


async def test_names_that_cannot_be_loaded(running: Service) -> None:
    with pytest.raises(UnknownModel) as unknown:
        await running.load("phi-4-mni")
    assert "phi-4-mini" in str(unknown.value.hint)
    with pytest.raises(ModelNotCached, match="No OpenAIService provider found for modelName phi-4-mini"):
        await running.load("phi-4-mini")
    with pytest.raises(InvalidRequest):
        await running.load("")


async def test_a_closing_service_takes_no_new_work_and_ends_loads(running: Service) -> None:
    """Who waits for a load when the service stops is told so; a cancelled task would cut the connection instead."""
    name = await fake(running, "slow", load_s=60)
    waiting = asyncio.create_task(running.load(name))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await running.close()
    with pytest.raises(ServiceStopping):
        await waiting
    with pytest.raises(ServiceStopping):
        await running.load(name)


async def test_closing_waits_for_answers_but_not_longer_than_told(running: Service) -> None:
    name = await fake(running, "one")
    model = await running.load(name)
    release = asyncio.Event()

    async def use() -> None:
        async with running.lease(name):
            await release.wait()

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    closing = asyncio.create_task(running.close(0.5))
    await asyncio.sleep(0.2)
    assert not model.worker.exited.done()
    async with asyncio.timeout(5):
        await closing
    assert model.worker.exited.done()
    release.set()
    with contextlib.suppress(ServiceStopping):
        await task


async def test_a_full_disk_does_not_stop_a_model(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is written to /dev/full, where every write fails for want of space; the worker's pipe is still read."""
    monkeypatch.setattr("logging.raiseExceptions", False)
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    service = Service(settings, Catalog.load(), Store(settings.models_dir), Path(tempfile.mkdtemp()))
    name = await fake(service, "one")
    (settings.log_dir / "worker-one.log").symlink_to("/dev/full")
    model = await service.load(name)
    assert model.worker.state == "ready"
    await service.close()


async def test_a_format_that_nothing_runs(running: Service) -> None:
    import msgspec

    name = await fake(running, "one")
    manifest = running.store.find(name)
    assert manifest is not None
    file = running.store.folder(manifest) / "manifest.json"
    file.chmod(0o644)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, format="safetensors")))
    with pytest.raises(NotRunnable, match="formats that run: gguf, onnx, openvino"):
        await running.load(name)
