"""Re-encoding a model, for `crash_points`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from build.quantized_gguf import write_model
from localfoundry.build import reencode
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from store_crashes import assert_clean, assert_sound


def make(folder: Path) -> None:
    path = write_model(folder / "m.gguf", ("Q4_1", "Q5_0"), rows=8)
    plan = PullPlan("m", None, "m", f"file:{path}", "gguf", (PlannedFile("m.gguf", local=path),))
    asyncio.run(pull(Store(folder / "store"), plan))


def work(folder: Path) -> None:
    store = Store(folder / "store")
    source = store.find("m")
    assert source is not None
    reencode.carry_out(store, reencode.plan(store, source))


def check(folder: Path) -> None:
    store = Store(folder / "store")
    assert_sound(store)
    assert [m.name for m in store.manifests()] in (["m"], ["m", "m-q8_0"])


def check_done(folder: Path) -> None:
    store = Store(folder / "store")
    assert [m.name for m in store.manifests()] == ["m", "m-q8_0"]
    store.execute(store.plan_clean())  # what the kill before left in tmp/
    assert_clean(store)
