"""`model info` says how fast a model would be here, what that is made of and by what right it is said."""

from __future__ import annotations

from typing import Any

import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.cli import context, fit, info, speed
from localfoundry.fit.calibration import Calibration, note_speed
from localfoundry.hardware.machine import SCHEMA, Bandwidth, Cpu, Machine, MemoryFacts
from localfoundry.service import learning
from localfoundry.store.manifest import Manifest

MACHINE = Machine(
    SCHEMA, "Linux",
    Cpu("x86_64", "a processor", physical_cores=4, logical_cores=8, usable=8, instructions=("AVX2",)),
    MemoryFacts(2**34, 2**33), Bandwidth(40e9, 4, 0.99, 2**28, 1.8e9, "memcmp"),
)  # fmt: skip


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four cores and 40 GB/s, whatever the one is that tests run on."""
    monkeypatch.setattr(speed, "survey", lambda *_: MACHINE)


def described(name: str) -> dict[str, Any]:
    found: dict[str, Any] = info.describe(config.load(), name)["speed"]
    return found


@pytest.mark.usefixtures("four_cores")
def test_a_version_has_every_figure_with_its_interval_and_terms(
    starter: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    told = described(starter.alias)
    for figure in ("decode", "prefill", "firstToken", "load"):
        assert told[figure]["low"] < told[figure]["value"] < told[figure]["high"], figure
        assert told[figure]["source"] == "predicted"
    for figure in ("decode", "prefill", "load"):
        assert all(term["words"] for term in told[figure]["terms"]), figure
    seconds = sum(term["seconds"] for term in told["decode"]["terms"])
    assert seconds == pytest.approx(1 / told["decode"]["value"])
    assert told["decode"]["valueThere"] < told["decode"]["value"]  # with a full context behind it
    speed.explain(starter.alias, told)
    explained = capsys.readouterr().out
    for word in ("Decode", "Prefill", "First token", "Load", "weights", "attention", "40.0 GB/s", "4 cores"):
        assert word in explained
    speed.show(told)
    line = capsys.readouterr().out
    assert line.startswith("Speed:") and "tok/s" in line and line.endswith("; predicted\n")


@pytest.mark.usefixtures("four_cores")
def test_the_catalogs_facts_give_figures_and_are_less_sure(starter: Manifest) -> None:
    known, deduced = described(starter.alias)["decode"], described("phi-4-mini")["decode"]
    assert known["high"] / known["low"] < deduced["high"] / deduced["low"]


@pytest.mark.usefixtures("four_cores")
def test_what_a_bench_found_is_said_to_be_measured_here(starter: Manifest) -> None:
    given = config.load()
    manifest = context.cached(given, starter.alias)
    assert manifest is not None
    shape = fit.shape_of(given, manifest, None)
    assert shape is not None
    subject = learning.subject_of("bundled", manifest, shape)
    before = described(starter.alias)["decode"]
    note_speed(Calibration(given.home / learning.FILE), subject, "decode", before["value"], 0.8 * before["value"])
    after = described(starter.alias)["decode"]
    assert after["value"] == pytest.approx(0.8 * before["value"])
    assert after["source"] == "measured here"


def test_without_a_probe_nothing_is_guessed(foundry: Foundry) -> None:
    told = foundry.ok("model", "info", "phi-4-mini", "--json").json["speed"]
    assert told == {"unknown": "unknown: no probe of the memory yet (foundry hardware --probe)"}
    for option in ((), ("--explain",)):
        assert (
            "no probe of the memory yet (foundry hardware --probe)"
            in foundry.ok("model", "info", "phi-4-mini", *option).out
        )
