"""Refusals for want of memory: what they advise works when it is done; and a load that is forced all the same."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import psutil
import pytest

from localfoundry import config
from localfoundry.advice.prospects import prospect
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Variant
from localfoundry.errors import InsufficientMemory, OutOfMemory, WorkerCrashed
from localfoundry.service import alternatives as service_alternatives
from localfoundry.service import memory as service_memory
from localfoundry.service.alternatives import Alternatives
from localfoundry.service.planning import LoadOptions, Planner
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from service.test_operation import KEEP, MB, machine, service
from service.test_service import fake, until

__all__ = ["machine"]  # a fixture

SIZES = {"large": 900 * MB, "medium": 400 * MB, "small": 200 * MB}


async def refusal(it: Service, name: str, options: LoadOptions = KEEP) -> InsufficientMemory:
    with pytest.raises(InsufficientMemory) as refused:
        await it.load(name, options)
    return refused.value


def ways(error: InsufficientMemory) -> dict[str, Any]:
    """By kind, as they leave over HTTP."""
    told: Any = error.to_openai()
    return {way["kind"]: way for way in told["error"]["ways_out"]}


async def test_a_smaller_cached_model_is_advised_and_loads(machine: Callable[..., None]) -> None:
    machine(1000, 100)
    async with service(memory_reserve_bytes=300 * MB, offline=True) as it:
        for name, size in SIZES.items():
            await fake(it, name, memory_bytes=size)
        error = await refusal(it, "large")
        way = ways(error)["model"]
        assert (way["model"], way["need_bytes"]) == ("medium", 400 * MB)
        assert way["command"] == "foundry model run medium --ctx 8192"
        assert way["command"] in str(error.hint)
        assert "other programs: they hold 100.0 MB" not in str(error.hint), "that would not be enough"
        assert (await it.load(way["model"], LoadOptions(context=way["context"]))).manifest.alias == "medium"


async def test_what_other_programs_hold_is_told_where_it_would_be_enough(machine: Callable[..., None]) -> None:
    machine(1000, 400)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        error = await refusal(it, await fake(it, "large", memory_bytes=900 * MB))
        assert "close other programs: they hold 400.0 MB" in str(error.hint)
        assert "no smaller model for chat that fits is known" in str(error.hint)


async def test_pinned_models_that_block_are_named_and_unloading_them_works(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        pinned = LoadOptions(retain=True, pinned=True)
        for name in ("one", "two"):
            await it.load(await fake(it, name, memory_bytes=300 * MB, takes_bytes=300 * MB), pinned)
        await fake(it, "large", memory_bytes=600 * MB)
        way = ways(await refusal(it, "large"))["unload"]
        assert way["command"] == "foundry model unload one:1"
        await it.unload(way["model"])
        assert (await it.load("large", KEEP)).manifest.alias == "large"


@pytest.mark.real_model
async def test_every_command_that_is_printed_then_works(starter: Manifest, machine: Callable[..., None]) -> None:
    """The story of the starter model on a machine with 300 MB for it, beside a smaller one that is here."""
    machine(1000)
    async with service(memory_reserve_bytes=700 * MB, offline=True) as it:
        await fake(it, "small", memory_bytes=100 * MB)
        error = await refusal(it, starter.alias, LoadOptions(context=8192))
        assert 300 * MB < error.need_bytes < 450 * MB
        assert error.free_bytes == 300 * MB
        printed = [
            line.partition("#")[0].split() for line in str(error.hint).splitlines() if line.startswith("foundry")
        ]
        assert [way[3] for way in printed] == [starter.id, "small"]
        for command in printed:
            assert command[:3] + command[4:5] == ["foundry", "model", "run", "--ctx"]
            model = await it.load(command[3], LoadOptions(context=int(command[5])))
            assert model.context == int(command[5]) >= 512
            await it.unload_all()
        assert ways(error)["context"]["need_bytes"] <= 300 * MB


@pytest.fixture
def alternatives(starter: Manifest) -> Alternatives:
    settings = config.load()
    return Alternatives(Catalog.load(), Planner(Store(settings.models_dir), settings.home), settings)


def test_the_catalog_is_advised_where_there_is_a_network(starter: Manifest, alternatives: Alternatives) -> None:
    """Of llama-3.2-1b there are two variants; for less than either there are other models."""
    q8 = Catalog.load().require("llama-3.2-1b-instruct-q8_0:1")
    assert q8[1] is not None
    large = msgspec.structs.replace(starter, alias="llama-3.2-1b", name=q8[1].name, version=1)
    advice = alternatives.of_cached(large, 8192, 5_000 * MB, 4_000 * MB)
    kinds = {way.kind: way for way in advice.ways}
    assert kinds["variant"].model == "llama-3.2-1b-instruct-q4_k_m:1"
    assert "model" in kinds
    assert all(way.need_bytes and way.need_bytes <= 4_000 * MB for way in advice.ways)
    offline = dataclasses.replace(alternatives, settings=config.load({"offline": True}))
    here = {way.model for way in offline.of_cached(large, 8192, 5_000 * MB, 4_000 * MB).ways}
    assert here <= {large.id, "smollm2-135m"}


def test_a_catalog_of_100_000_models_is_no_reason_to_wait(
    starter: Manifest, alternatives: Alternatives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service answers nobody else meanwhile: only those nearest in size are computed."""
    base = Catalog.load().require("qwen3-0.6b")[0]
    many = [
        msgspec.structs.replace(
            base, alias=f"m{n}", names=(), source_repo=None, parameters=10**8 + n * 1000,
            variants=(Variant(f"m{n}-q4", 1, "gguf", source="hf:a/b/c.gguf"),),
        )
        for n in range(100_000)
    ]  # fmt: skip
    computed = 0

    wide = dataclasses.replace(alternatives, catalog=Catalog(many))

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal computed
        computed += 1
        return prospect(*args, **options)

    monkeypatch.setattr(service_alternatives, "prospect", counting)
    advice = wide.of_cached(starter, 8192, 5_000 * MB, 4_000 * MB)
    assert [way.kind for way in advice.ways][-1] == "model"
    assert 0 < computed <= 1000


# Forced loads


async def test_a_forced_load_begins_counts_and_stays(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        idle = await it.load(await fake(it, "idle", memory_bytes=300 * MB, takes_bytes=300 * MB))
        large = await it.load(
            await fake(it, "large", memory_bytes=1500 * MB, takes_bytes=1500 * MB), LoadOptions(retain=True, force=True)
        )
        assert large.resident.plan.forced
        assert idle.worker.exited.done(), "idle models go for it"
        assert it.memory()["claimed"] == 1500 * MB
        assert it.memory()["free"] == 0
        small = await fake(it, "small", memory_bytes=200 * MB)
        assert it.models == [large], "being too large is no reason to unload it"
        assert (await it.load(small, KEEP)).manifest.alias == "small"
        assert large.worker.exited.done(), "another model is: it is as evictable as any"


async def test_force_is_nothing_special_where_the_model_fits(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        model = await it.load(await fake(it, "small", memory_bytes=200 * MB), LoadOptions(force=True))
        assert not model.resident.plan.forced


async def test_a_forced_load_leaves_busy_and_pinned_models_alone(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        pinned = await it.load(
            await fake(it, "pinned", memory_bytes=300 * MB, takes_bytes=300 * MB), LoadOptions(retain=True, pinned=True)
        )
        name = await fake(it, "busy", memory_bytes=300 * MB, takes_bytes=300 * MB)
        await it.load(name, KEEP)
        async with it.lease(name) as busy:
            large = await fake(it, "large", memory_bytes=1500 * MB)
            forced = await it.load(large, LoadOptions(retain=True, force=True))
            assert it.models == [pinned, busy, forced]


async def test_our_own_limit_does_not_defeat_force(machine: Callable[..., None]) -> None:
    """What a worker may take follows from what it needs, not from what is free."""
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        name = await fake(it, "large", memory_bytes=5000 * MB)
        model = await it.load(name, LoadOptions(force=True))
        if sys.platform.startswith("linux"):
            allowed, _ = psutil.Process(model.worker.pid).rlimit(psutil.RLIMIT_DATA)
            assert allowed > 5000 * MB


async def test_a_forced_model_that_the_system_kills_is_told_as_such(machine: Callable[..., None]) -> None:
    machine(1000)
    async with service(memory_reserve_bytes=0, offline=True) as it:
        slow = await fake(it, "slow", memory_bytes=1500 * MB, load_s=30)
        load = it.load(slow, LoadOptions(force=True))
        loading = asyncio.ensure_future(load)
        await until(lambda: slow in str(children()))
        os.kill(children()[slow], signal.SIGKILL)
        with pytest.raises(OutOfMemory, match=r"loaded by force, though 1\.5 GB do not fit, and the system ended it"):
            await loading
        name = await fake(it, "ready", memory_bytes=1500 * MB)
        model = await it.load(name, LoadOptions(force=True))
        crashes: list[str] = []
        it.listeners.append(lambda event: crashes.append(event.reason or ""))
        os.kill(model.worker.pid, signal.SIGKILL)
        await until(lambda: crashes)
        assert "the system ended it for want of memory" in crashes[0]
        assert WorkerCrashed.status == 503


async def test_a_limit_of_addresses_is_named_where_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `ulimit -v` a load fails although the memory is there: mapped files and stacks count as well."""
    assert service_memory.address_limit() is None or service_memory.address_limit()
    monkeypatch.setattr(service_memory, "address_limit", lambda: 900 * MB)
    async with service() as it:
        with pytest.raises(OutOfMemory, match=r"900\.0 MB of addresses here \(ulimit -v\)"):
            await it.load(await fake(it, "big", fail_load="out of memory: 7 bytes"))


def children() -> dict[str, int]:
    """Workers of this process: alias to process."""
    found = {}
    for child in psutil.Process().children():
        words = child.cmdline()
        if "--alias" in words:
            found[words[words.index("--alias") + 1].split(":")[0]] = child.pid
    return found
