"""The prediction of memory, against what the real engine takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from localfoundry import config, fit
from localfoundry.catalog.lookup import Catalog
from localfoundry.service.memory import resident_bytes
from localfoundry.service.planning import LoadOptions
from localfoundry.service.service import Service
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

WORST = 0.15  # of what is measured


@pytest.mark.parametrize("context", [512, 2048, 8192])
async def test_the_prediction_is_near_what_a_load_takes(starter: Manifest, context: int) -> None:
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    service = Service(settings, Catalog.load(), Store(settings.models_dir), Path(tempfile.mkdtemp()))
    try:
        model = await service.load(starter.alias, LoadOptions(context=context))
        memory = fit.predicted(starter.size_bytes, starter.architecture, context, settings.parallel)
        measured = resident_bytes(model.worker.pid)
        assert measured is not None
        assert abs(memory.total - measured) < WORST * measured, (memory, measured)
        assert abs(memory.kv_cache - model.memory["kv_cache"]) < 2**20
        assert abs(memory.compute - model.memory["compute"]) < 5 * 2**20
        assert model.claim_bytes >= measured * 0.95
    finally:
        await service.close()


def test_the_largest_context_is_the_largest_that_fits(starter: Manifest) -> None:
    shape, weights = starter.architecture, starter.size_bytes
    for free in (150_000_000, 200_000_000, 300_000_000):
        best = fit.largest_context(free, weights, shape, 8, 8192)
        if best is None:
            assert fit.predicted(weights, shape, 256, 8).total > free
            continue
        assert fit.predicted(weights, shape, best, 8).total <= free
        assert best == 8192 or fit.predicted(weights, shape, best + 256, 8).total > free
    assert fit.largest_context(10_000_000, weights, shape, 8, 8192) is None
    assert fit.largest_context(10**12, weights, shape, 8, 8192) == 8192
