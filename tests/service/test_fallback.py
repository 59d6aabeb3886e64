"""A model that one engine cannot load goes to the next one: two fake engines, real processes."""

from __future__ import annotations

import asyncio
import json
import logging

import psutil
import pytest

from localfoundry import config
from localfoundry.errors import InsufficientMemory, InvalidRequest, LoadFailed, NotRunnable, OutOfMemory
from localfoundry.service.events import ModelEvent
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.sources.resolve import resolve
from localfoundry.store.pull import pull

CROOKED = {"fail_load": "the tensor is crooked"}


async def twofold(service: Service, name: str, **on: dict[str, object]) -> str:
    """Import a model that both fake engines take, with switches for each, and return its alias."""
    source = service.settings.home / f"{name}.fake.json"
    source.write_text(json.dumps({"architecture": "twofold", "on": on}))
    return (await pull(service.store, await resolve(str(source), settings=service.settings))).alias


def told(service: Service) -> list[ModelEvent]:
    events: list[ModelEvent] = []
    service.listeners.append(events.append)
    return events


def kinds(events: list[ModelEvent]) -> list[str]:
    return [event.kind for event in events]


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


async def test_the_next_engine_loads_what_the_first_one_cannot(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    name, events = await twofold(running, "one", fake=CROOKED), told(running)
    with caplog.at_level(logging.WARNING):
        model = await running.load(name)
    assert model.engine.name == "fake2"
    assert [str(one) for one in model.resident.plan.failed] == ["fake: the tensor is crooked"]
    assert kinds(events) == ["fell_back", "loaded"]
    assert events[0].reason == "fake: the tensor is crooked; trying fake2"
    assert "trying fake2" in caplog.text
    assert [p.pid for p in workers()] == [model.worker.pid], "something is left of the engine that failed"


async def test_a_crash_in_the_load_is_a_failure_like_any_other(running: Service) -> None:
    name = await twofold(running, "one", fake={"crash_load": True})
    assert (await running.load(name)).engine.name == "fake2"


async def test_an_engine_that_failed_is_not_tried_again_for_nothing(running: Service) -> None:
    name, events = await twofold(running, "one", fake=CROOKED), told(running)
    await running.load(name)
    await running.unload(name)
    model = await running.load(name)
    assert model.engine.name == "fake2"
    assert "could not load it: the tensor is crooked" in str(model.resident.plan.left_out[0])
    assert kinds(events) == ["fell_back", "loaded", "unloaded", "loaded"]


async def test_an_engine_that_was_asked_for_has_no_substitute(running: Service) -> None:
    name, events = await twofold(running, "one", fake=CROOKED), told(running)
    with pytest.raises(LoadFailed, match="the tensor is crooked"):
        await running.load(name, LoadOptions(engine="fake"))
    assert kinds(events) == ["load_failed"]
    assert running.models == []
    assert workers() == []


async def test_who_asked_for_the_engine_is_refused_and_who_did_not_goes_on(running: Service) -> None:
    """Both wait for the same load; its failure is an error to one of them only."""
    name = await twofold(running, "one", fake={**CROOKED, "load_s": 0.2})

    async def use() -> str:
        async with running.lease(name) as model:
            return model.engine.name

    forced, free = await asyncio.gather(running.load(name, LoadOptions(engine="fake")), use(), return_exceptions=True)
    assert isinstance(forced, LoadFailed)
    assert free == "fake2"


async def test_where_every_engine_fails_the_error_names_them_all(running: Service) -> None:
    name, events = await twofold(running, "one", fake=CROOKED, fake2={"fail_load": "too round"}), told(running)
    with pytest.raises(LoadFailed, match=r"fake: the tensor is crooked; fake2: too round"):
        await running.load(name)
    assert kinds(events) == ["fell_back", "load_failed"]
    with pytest.raises(LoadFailed, match="no engine could load it"):
        await running.load(name)  # asked for again by a person: nothing was remembered that would hide it


async def test_an_engine_that_lacks_memory_is_tried_again_another_time(running: Service) -> None:
    """What is short today may be there tomorrow: only this load goes to the next engine."""
    name, events = await twofold(running, "one", fake={"fail_load": "out of memory"}), told(running)
    assert (await running.load(name)).engine.name == "fake2"
    await running.unload(name)
    await running.load(name)
    assert kinds(events).count("fell_back") == 2


async def test_an_engine_that_needs_more_than_there_is_is_passed_over(running: Service) -> None:
    name = await twofold(running, "one", fake={"memory_bytes": 2**60})
    model = await running.load(name)
    assert model.engine.name == "fake2"
    assert "can be had" in str(model.resident.plan.left_out[0])
    neither = await twofold(running, "two", fake={"memory_bytes": 2**60}, fake2={"memory_bytes": 2**60})
    with pytest.raises(InsufficientMemory):
        await running.load(neither)


async def test_each_engine_counts_with_what_it_takes(running: Service) -> None:
    """The second engine's load must not be granted with the first one's figure."""
    name = await twofold(running, "one", fake={**CROOKED, "memory_bytes": 1_000_000}, fake2={"memory_bytes": 7_000_000})
    model = await running.load(name)
    assert model.resident.plan.need == {"cpu": 7_000_000}


async def test_an_unload_in_the_middle_of_a_failing_load_ends_it(running: Service) -> None:
    name = await twofold(running, "one", fake={**CROOKED, "load_s": 0.3})
    loading = asyncio.create_task(running.load(name))
    async with asyncio.timeout(10):
        while not running.waiting(running.resolve(name).id):  # noqa: ASYNC110 looks at the service from outside
            await asyncio.sleep(0.01)
        assert await running.unload(name)
        with pytest.raises(LoadFailed):
            await loading
    assert running.models == []
    assert workers() == []


async def test_another_engine_means_loading_again(running: Service) -> None:
    name = await twofold(running, "one")
    first = await running.load(name)
    assert first.engine.name == "fake"
    second = await running.load(name, LoadOptions(engine="fake2"))
    assert second.engine.name == "fake2"
    assert second.worker.pid != first.worker.pid
    assert await running.load(name) is second


async def test_the_engine_of_a_model_and_of_all_in_the_settings(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all models it is a wish that gives way; for one model it is an order."""
    both, one = await twofold(running, "both"), await twofold(running, "plain", fake2=CROOKED)
    monkeypatch.setenv("FOUNDRY_ENGINE", "fake2")
    running.reload(config.load())
    assert (await running.load(both)).engine.name == "fake2"
    assert (await running.load(one)).engine.name == "fake"
    config.save(running.settings.file, {f"models.{one}.engine": "fake2"})
    running.reload(config.load())
    await running.unload(one)
    with pytest.raises(LoadFailed, match="crooked"):
        await running.load(one)


async def test_engines_that_cannot(running: Service) -> None:
    name = await twofold(running, "one")
    with pytest.raises(InvalidRequest, match="no engine is called 'fakee'") as unknown:
        await running.load(name, LoadOptions(engine="fakee"))
    assert unknown.value.param == "engine"
    with pytest.raises(NotRunnable, match=r"llama\.cpp cannot run it: it does not read fake files; fake and fake2 can"):
        await running.load(name, LoadOptions(engine="llama.cpp"))
    assert running.models == []


async def test_out_of_memory_of_every_engine_is_out_of_memory(running: Service) -> None:
    name = await twofold(running, "one", fake={"fail_load": "out of memory"}, fake2={"fail_load": "out of memory"})
    with pytest.raises(OutOfMemory):
        await running.load(name)
