"""`foundry tune` with the fake engine: real services, real processes, a known token clock, planted gains and losses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import Foundry, wait_until
from localfoundry import config
from localfoundry.config import profiles
from localfoundry.results.db import FILE_NAME, Results

FakeModel = Callable[..., str]
CLOCK = 300  # tokens a second
PLANTED = {
    "--threads 2": {"times": 2.0},
    "--cache-type q8_0": {"times": 4.0, "loss": 0.3},
    "--batch-size 256": {"fail_load": "the tensor is crooked"},
    "--speculate ngram": {"crash_at": 3},
}


def services() -> list[int]:
    """Processes of services and workers that were started by commands of this test."""
    home = os.environ["FOUNDRY_HOME"]

    def ours(process: psutil.Process) -> bool:
        try:
            return "localfoundry" in " ".join(process.cmdline()) and home in " ".join(process.environ().values())
        except psutil.Error:
            return False

    return [process.pid for process in psutil.process_iter() if ours(process)]


def test_the_planted_best_is_found_saved_and_used_and_what_loses_quality_is_not(
    foundry: Foundry, fake_model: FakeModel
) -> None:
    name = fake_model("one", tokens_per_second=CLOCK, **{"with": PLANTED})
    found: dict[str, Any] = foundry.ok("tune", name, "--budget", "4m", "--rounds", "6", "--json", timeout=250).json
    assert found["winner"] == "fake fake, threads 2" and found["saved"]
    assert found["gain"]["low"] > 1.3
    tried = {one["setting"]: one for one in found["tried"]}
    assert "over the bound of 2.0%" in tried["fake fake, threads 2, KV cache q8_0"]["out"]
    assert "the tensor is crooked" in tried["fake fake, batch 256"]["out"]
    assert "worker of one:1 ended" in tried["fake fake, speculation ngram"]["out"]
    wait_until(lambda: not services(), 10, "something is left of the services it was measured with")  # they have let go

    loaded = foundry.ok("model", "load", name, "--json").json
    assert loaded["tuned"] and loaded["engine_arguments"] == ["--threads", "2"]
    assert "for chat: " in loaded["engine_reason"] and "tuned on 20" in loaded["engine_reason"]
    info = foundry.ok("model", "info", name).out
    assert "Tuned:         tuned on 20" in info
    assert ", because it was tuned on 20" in info, "the engine that a load gets now"

    busy = foundry("tune", name)
    assert busy.code == 2 and "has one loaded" in busy.err and "foundry model unload --all" in busy.err

    shown = foundry.ok("tune", name, "--explain").out
    assert "threads 2: " in shown and "over the bound" in shown
    assert "as usual again" in foundry.ok("tune", name, "--reset").out
    assert profiles.read(config.load().home) == []
    assert foundry("tune", name, "--explain").code == 1


def test_ctrl_c_leaves_nothing_behind_and_the_next_one_goes_on(
    foundry: Foundry, fake_model: FakeModel, isolated: Path
) -> None:
    others = {words: {"fail_load": "no"} for words in [*PLANTED][1:]}
    name = fake_model("one", tokens_per_second=CLOCK, **{"with": {"--threads 2": {"times": 2.0}, **others}})
    command = [foundry.executable, "tune", name, "--budget", "4m", "--rounds", "6"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = threading.Timer(100, process.kill)
        late.start()
        assert process.stderr is not None
        said = iter(process.stderr)
        assert any(line.startswith("options: 1 ways, 3 rounds") for line in said)
        process.send_signal(signal.SIGINT)
        rest = "".join(said)
        assert process.wait() == 130, rest
        late.cancel()
    assert f"to go on: foundry tune {name} --for chat" in rest
    wait_until(lambda: not services(), 10, f"services are left: {[psutil.Process(p).cmdline() for p in services()]}")
    path = config.load().home / FILE_NAME
    with Results(path) as results:
        before = {run.id: len(results.samples(run.id)) for run in results.runs("tune")}
    assert sum(before.values()) > 0
    assert (
        foundry.ok("tune", name, "--budget", "4m", "--rounds", "6", "--json", timeout=250).json["winner"]
        == "fake fake, threads 2"
    )
    with Results(path) as results:
        assert before.keys() <= {run.id for run in results.runs("tune")}
        whole = [run for run, count in before.items() if results.run(run).status == "finished" and count]
        assert any(len(results.samples(run)) == before[run] for run in whole), "nothing was taken up"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none-such"], "none-such"),
        (["one", "--for", "beauty"], "not for 'beauty'"),
        (["one", "--budget", "soon"], "is not a duration"),
        (["embedder"], "only models for chat are tuned"),
    ],
)
def test_what_cannot_be_tuned_is_said_at_once(
    foundry: Foundry, fake_model: FakeModel, arguments: list[str], said: str
) -> None:
    fake_model("one")
    if arguments == ["embedder"]:
        _for_embeddings(fake_model("embedder"))
    done = foundry("tune", *arguments)
    assert done.code != 0 and said in done.err, done.err


def test_a_budget_that_is_too_small_names_the_smallest(foundry: Foundry, fake_model: FakeModel) -> None:
    name = fake_model("one", tokens_per_second=CLOCK)
    done = foundry("tune", name, "--budget", "1s")
    assert done.code == 2 and "a budget of" in done.err and "--budget " in done.err


def test_a_model_that_cannot_be_loaded_says_why(foundry: Foundry, fake_model: FakeModel) -> None:
    done = foundry("tune", fake_model("one", fail_load="the tensor is crooked"), "--budget", "1m")
    assert done.code == 6 and "the tensor is crooked" in done.err


def test_the_plan_is_shown_without_measuring(foundry: Foundry, fake_model: FakeModel) -> None:
    plan = foundry.ok("tune", fake_model("one"), "--dry-run", "--json").json
    assert plan["default"] == "fake fake"
    assert plan["options"] == ["threads 2", "batch 256", "KV cache q8_0", "speculation ngram"]


def _for_embeddings(name: str) -> None:
    for path in (config.load().models_dir / "models" / name).rglob("manifest.json"):
        document = json.loads(path.read_text())
        path.chmod(0o644)
        path.write_text(json.dumps(document | {"tasks": ["embeddings"]}))
