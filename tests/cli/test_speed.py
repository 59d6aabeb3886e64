"""`model info` says how fast a model would be here, what that is made of and by what right it is said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model
from localfoundry.cli import context, engine_fit, fit, info, speed
from localfoundry.cli.engine_choice import Running
from localfoundry.config import Settings
from localfoundry.fit.calibration import Calibration, note_speed
from localfoundry.hardware.machine import SCHEMA, Bandwidth, Cpu, Machine, MemoryFacts
from localfoundry.results import place
from localfoundry.results.db import FILE_NAME, Results, now
from localfoundry.results.rows import CandidateRow, Run, SampleRow, new_id
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


@pytest.fixture
def four_cores_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fit, "survey", lambda *_: MACHINE)


@pytest.mark.usefixtures("four_cores_elsewhere")
def test_figures_are_those_of_the_engine_that_would_run_it(
    foundry: Foundry, starter: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under OpenVINO's name stood llama.cpp's rates, from which it differs by factors."""
    of_llama = info.describe(config.load(), starter.alias)
    foundry.ok("config", "set", f"models.{starter.alias}.engine", "openvino")
    told = info.describe(config.load(), starter.alias)
    assert told["engines"]["candidates"][0]["engine"] == "openvino"
    assert told["memory"]["engine"] == told["speed"]["engine"] == "openvino"
    assert told["memory"]["totalBytes"] > 1.3 * of_llama["memory"]["totalBytes"], "it lays the weights out twice"
    decode = told["speed"]["decode"]
    assert decode["source"] == "predicted" and decode["high"] / decode["low"] > 6, "little was measured of it"
    assert told["speed"]["load"] is None
    info.show(told)
    shown = capsys.readouterr().out
    assert "Memory in openvino (predicted" in shown and "Speed:         in openvino " in shown
    assert "s to load" not in shown
    fit.explain(starter.alias, told["memory"])
    speed.explain(starter.alias, told["speed"])
    assert "unknown" in capsys.readouterr().out


@pytest.mark.usefixtures("four_cores_elsewhere")
def test_a_model_that_there_is_as_onnx_alone_has_figures_of_that_engine() -> None:
    """It had llama.cpp's, of a file that nobody offers."""
    found = engine_fit.of_catalog(config.load(), onnx_only())
    assert found is not None
    memory, rates = found
    assert memory["engine"] == rates["engine"] == "onnx" and not memory["exactShape"]
    assert memory["totalBytes"] > memory["terms"][0]["bytes"] > 10**8
    assert rates["decode"]["high"] / rates["decode"]["low"] > 6


def onnx_only() -> Model:
    known = Catalog.load().require("qwen2.5-0.5b")[0]
    return msgspec.structs.replace(known, variants=tuple(v for v in known.variants if v.format == "onnx"))


@pytest.mark.usefixtures("four_cores_elsewhere")
def test_a_bench_of_that_engine_counts_and_one_of_another_does_not(starter: Manifest, foundry: Foundry) -> None:
    foundry.ok("config", "set", f"models.{starter.alias}.engine", "openvino")
    given = config.load()
    running = engine_fit.running(given, starter)
    assert running is not None and running.to_make == "openvino"
    made = replace_runs(running, starter)
    keep_bench(given, starter, "llama.cpp (bundled)", 0.01)
    assert engine_fit.describe_speed(given, starter, made)["decode"]["source"] == "predicted"
    keep_bench(given, starter, "openvino", 0.02)
    decode = engine_fit.describe_speed(given, starter, made)["decode"]
    assert (round(decode["value"]), decode["source"]) == (50, "measured here")


def replace_runs(running: Running, manifest: Manifest) -> Running:
    """As it is once the file for the engine is there."""
    return running._replace(runs=manifest, to_make=None)


def keep_bench(given: Settings, manifest: Manifest, engine: str, itl_s: float) -> None:
    """Eight requests of one stream in the results of this home."""
    run = Run(new_id(), "bench", now(), machine=place.machine_facts(), protocol={})
    row = CandidateRow(run.id, "m", manifest.alias, manifest.id, manifest.files[0].sha256, engine)
    with Results(given.home / FILE_NAME) as results:
        results.begin(run, [row])
        for seq in range(8):
            took = itl_s * (1 + seq / 1000)
            results.add_sample(SampleRow(run.id, "m", "chat", "en", "c=1", 1, seq, f"p{seq}", True, 0.1, 0.1, took,
                                         1.0, 80, 0, 64, "{}"))  # fmt: skip
        results.finish(run.id)
