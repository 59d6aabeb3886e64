"""Plans of loads: the context that is chosen, what is said of it, and what loads teach the next plan."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localfoundry import config, fit
from localfoundry.catalog.lookup import Catalog
from localfoundry.engines import llama_fit
from localfoundry.errors import InvalidRequest
from localfoundry.fit.calibration import Calibration
from localfoundry.service.learning import FILE
from localfoundry.service.planning import LoadOptions, Planner
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

ENOUGH = 10**12


@pytest.fixture
def planner(starter: Manifest) -> Planner:
    settings = config.load()
    return Planner(Store(settings.models_dir), settings.home)


def context_of(planner: Planner, manifest: Manifest, room: int, **options: int) -> tuple[int, int]:
    plan = planner.plan(manifest, LoadOptions(**options), config.load(), None, room)
    return plan.context, plan.usual_context


def test_the_context_is_the_largest_that_fits_and_never_silently_less(planner: Planner, starter: Manifest) -> None:
    assert context_of(planner, starter, ENOUGH) == (8192, 8192)
    context, usual = context_of(planner, starter, 260_000_000)
    assert 512 <= context < 8192 == usual  # the service logs it, and `run --verbose` shows it
    plan = planner.plan(starter, LoadOptions(), config.load(), None, 260_000_000)
    assert plan.largest_context == context
    assert sum(plan.need.values()) <= 260_000_000


def test_a_context_that_was_asked_for_is_not_changed(planner: Planner, starter: Manifest) -> None:
    """It is refused with the figures instead, when it comes to loading."""
    assert context_of(planner, starter, 260_000_000, context=8192) == (8192, 8192)
    with pytest.raises(InvalidRequest, match="trained for"):
        context_of(planner, starter, ENOUGH, context=8193)


def test_where_not_even_a_short_context_fits_nothing_is_chosen(planner: Planner, starter: Manifest) -> None:
    assert context_of(planner, starter, 50_000_000) == (8192, 8192)


def test_engine_arguments_count(planner: Planner, starter: Manifest) -> None:
    file = planner.store.main_file(starter)
    shape = llama_fit.shape_of(starter, file)
    assert shape is not None
    plain, small = (
        fit.memory(shape, llama_fit.load_of(("chat",), 8192, 8, arguments))
        for arguments in ((), ("-ctk", "q8_0", "-ctv", "q4_0", "-fa", "on"))
    )
    assert small["kv_cache"] == pytest.approx(plain["kv_cache"] * (34 / 32 + 18 / 32) / 4)


@pytest.fixture
async def running(isolated: Path) -> AsyncIterator[Service]:
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    made = Service(settings, Catalog.load(), Store(settings.models_dir), Path(tempfile.mkdtemp()))
    yield made
    await made.close()


@pytest.mark.real_model
async def test_a_load_teaches_the_estimate(starter: Manifest, running: Service) -> None:
    """After one load the next prediction is called measured, and is within 3 % of what the engine allocated."""
    model = await running.load(starter.alias, LoadOptions(context=2048))
    file = config.load().home / FILE
    async with asyncio.timeout(10):
        while not file.exists():  # noqa: ASYNC110 written by a thread that the load does not wait for
            await asyncio.sleep(0.01)
    notes = Calibration(file)._notes
    assert {note.quantity for note in notes} == {"memory", "load"}
    assert all(note.model == starter.files[0].sha256 and note.here for note in notes)
    [memory] = [note for note in notes if note.quantity == "memory"]
    assert memory.ratio == pytest.approx(1, abs=0.03)
    assert model.claim_bytes > 0


def test_profile_chat_and_one_request_at_a_time_are_for_one_stream(planner: Planner, starter: Manifest) -> None:
    """`auto` is not: who says nothing may send several requests at once."""

    def plan(**fields: object) -> bool:
        settings = dataclasses.replace(config.load(), **fields)  # type: ignore[arg-type]
        return planner.plan(starter, LoadOptions(), settings, None, 10**12).one_stream

    assert [plan(profile=name) for name in ("auto", "chat", "throughput")] == [False, True, False]
    assert plan(parallel=1) and plan(parallel=1, profile="throughput")
