"""`foundry eval --fidelity` on the real engine, with a part of the shipped reference, and on one that says little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.quality import reference
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.store.manifest import Manifest


def part(tmp_path: Path) -> str:
    """One English chunk of the shipped reference, cut short, and one answer: seconds instead of minutes."""
    whole = reference.read(reference.shipped()[0]).packed
    rows, top = 32, whole.top
    cut = msgspec.structs.replace(
        whole,
        chunks=(whole.chunks[0][: whole.first + rows],),
        ids=whole.ids[: 4 * top * rows],
        logprobs=whole.logprobs[: 2 * top * rows],
        tail=whole.tail[: 4 * rows],
        target=whole.target[: 4 * rows],
        greedy=whole.greedy[3:4],  # three fruits: 14 tokens
    )
    path = tmp_path / "part.reference"
    reference.write(path, cut)
    return str(path)


@pytest.mark.real_model
@pytest.mark.parametrize("engine", ["llama.cpp", "openvino"])
def test_each_engine_is_faithful_to_the_starter_s_weights(
    foundry: Foundry, starter: Manifest, tmp_path: Path, engine: str
) -> None:
    """OpenVINO, which reads the shipped file's type badly, is given a folder of its own; the bounds are those of few
    positions, and far from what a badly read type shows (KL 0.19, 66 %)."""
    options = ["--engine", engine, "--reference", part(tmp_path), "--every", "4", "--json"]
    (model,) = foundry.ok("eval", "--fidelity", starter.name, *options, timeout=110).json["models"]
    assert model["engine"].startswith(engine) and model["positions"] == 8
    assert 0 <= model["kl"]["value"] < 0.03
    assert model["top1"]["value"] >= 0.75
    assert model["perplexity"]["value"] == pytest.approx(1, abs=0.05)
    assert model["greedy"]["value"] >= 0.3
    with Results(config.load().home / FILE_NAME) as results:
        (run,) = results.runs("eval")
        (item,) = results.items(run.id)
        assert (item.label, item.suite, item.passed) == (starter.name, "fidelity", None)
    if engine == "openvino":
        (loaded,) = foundry.ok("service", "ps", "--json").json["models"]
        assert loaded["file"] == f"{starter.name}-openvino:1", "it says which file runs"


@pytest.mark.real_model
def test_a_comparison_measures_fidelity_once_and_shows_what_is_kept(
    foundry: Foundry, starter: Manifest, tmp_path: Path
) -> None:
    """Of the same file and engine a figure is kept; it stands beside the speed in every later comparison."""
    line = ("compare", starter.alias, f"{starter.alias}@threads=1", "--rounds", "2", "--max-tokens", "4")
    asked = ("--fidelity", "--reference", part(tmp_path), "--every", "8", "--json")
    first = foundry.ok(*line, *asked, timeout=110).json["fidelity"]
    assert [one["positions"] for one in first] == [4, 4]
    assert all(0 <= one["kl"]["value"] < 0.03 for one in first)
    again = foundry.ok(*line, *asked)
    assert again.json["fidelity"] == first and "measured already" in again.err
    told = foundry.ok(*line)
    assert "Fidelity to the source weights:" in told.out
    with Results(config.load().home / FILE_NAME) as results:
        assert [run.kind for run in results.runs()] == ["bench", "eval"], "one file in one engine is measured once"


def test_a_model_without_a_reference_is_told_how_to_get_one(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    refused = foundry("eval", "--fidelity", fake_model("fake"))
    assert refused.code == 2
    assert "there is no reference for fake:1" in refused.err and "fidelity_reference.py" in refused.err
    (tmp_path / "other.reference").write_bytes(b"nothing")
    damaged = foundry("eval", "--fidelity", "fake", "--reference", str(tmp_path / "other.reference"))
    assert damaged.code == 2 and "no reference for fidelity" in damaged.err


def test_an_engine_that_answers_nothing_of_use_is_a_failure_by_name(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    done = foundry("eval", "--fidelity", fake_model("fake"), "--reference", part(tmp_path))
    assert done.code == 1 and "fake:1 gave an answer without a text" in done.err


def test_a_comparison_goes_on_without_the_fidelity_that_cannot_be_measured(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("one", tokens_per_second=400)
    fake_model("two", tokens_per_second=300)
    line = ("compare", "one", "two", "--rounds", "2", "--max-tokens", "8", "--fidelity")
    for _ in range(2):
        done = foundry.ok(*line)
        assert "no fidelity of one: there is no reference for one:1" in done.err
        assert "Recommendation for development" in done.out
