"""`foundry eval --fidelity` on the real engine, with a part of the shipped reference, and on one that says little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import Foundry
from localfoundry import config
from localfoundry.cli import context, fidelity_runs
from localfoundry.quality import reference
from localfoundry.quality.fidelity import Fidelity
from localfoundry.results.db import FILE_NAME, Results
from localfoundry.results.rows import CandidateRow
from localfoundry.store.manifest import Manifest


def part(tmp_path: Path, *, answered: bool = True) -> str:
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
        greedy=whole.greedy[3:4] if answered else (),  # three fruits: 14 tokens
    )
    path = tmp_path / "part.reference"
    reference.write(path, cut)
    return str(path)


@pytest.mark.real_model
@pytest.mark.usefixtures("both_starters")
@pytest.mark.parametrize("engine", ["llama.cpp", "openvino"])
def test_each_engine_is_faithful_to_the_starter_s_weights(
    foundry: Foundry, pulled_starter: Manifest, tmp_path: Path, engine: str
) -> None:
    """OpenVINO, which reads the shipped file's type badly, uses a folder of its own; the bounds are those of few
    positions, and far from what a badly read type shows (KL 0.19, 66 %)."""
    starter = pulled_starter
    options = ["--engine", engine, "--reference", part(tmp_path), "--every", "4", "--json"]
    (model,) = foundry.ok("eval", "--fidelity", starter.name, *options, timeout=110).json["models"]
    assert model["engine"].startswith(engine) and model["positions"] == 8
    assert 0 <= model["kl"]["value"] < 0.03
    assert model["top1"]["value"] >= 0.75
    assert model["perplexity"]["value"] == pytest.approx(1, abs=0.15), "eight positions"
    assert model["greedy"]["value"] >= 0.3
    with Results(config.load().home / FILE_NAME) as results:
        (run,) = results.runs("eval")
        (item,) = results.items(run.id)
        assert (item.label, item.suite, item.passed) == (starter.name, "fidelity", None)
    if engine == "openvino":
        (loaded,) = foundry.ok("service", "ps", "--json").json["models"]
        assert loaded["file"] == f"{starter.name}-openvino:1", "it says which file runs"


@pytest.mark.real_model
def test_the_quantizations_of_a_model_are_made_and_stand_side_by_side(
    foundry: Foundry, starter: Manifest, tmp_path: Path
) -> None:
    """Speed, memory, fidelity and items of each in one row; nothing is made, or measured, twice."""
    against = part(tmp_path, answered=False)
    quick = ("--rounds", "1", "--max-tokens", "4", "--items", "1", "--reference", against, "--every", "16")
    unasked = foundry("compare", starter.alias, "--quants", "q4_1,q4_0", *quick)
    assert unasked.code == 2 and "nobody is here to be asked" in unasked.err
    assert "Q4_0: smollm2-135m-instruct-q4_0, " in unasked.err
    assert "loses more than Q4_0 made from the original" in unasked.err
    line = ("compare", starter.alias, "--quants", "q4_1,q4_0", "--yes", *quick)
    done = foundry.ok(*line, "--json", timeout=280).json
    rows = {row["quantization"]: row for row in done["side_by_side"]}
    assert list(rows) == ["Q4_1", "Q4_0"], "from the most bits to the fewest, the model itself among them"
    for row in rows.values():
        assert row["size_bytes"] > 7e7 and row["peak_bytes"] > 1e8 and row["asked"] == 1
        assert row["median"]["latency_s"] > 0 and row["perplexity"]["value"] > 0.5
    assert 0 <= rows["Q4_1"]["kl"]["value"] < 0.03
    assert rows["Q4_0"]["kl"]["value"] > 5 * rows["Q4_1"]["kl"]["value"], "the cliff of this model"
    again = foundry.ok(*line)
    assert "measured already" in again.err and "to be made" not in again.err
    assert "Quantizations side by side:" in again.out and "What perplexity says of quantizations:" in again.out
    with Results(config.load().home / FILE_NAME) as results:
        assert [run.kind for run in results.runs()] == ["bench", "eval", "eval", "eval"]
        (bench,) = results.runs("bench")
    told = foundry.ok("compare", "--from", bench.id, "--json").json
    assert told["fidelity"] == done["fidelity"], "what is kept stands beside the speed, asked for or not"


@pytest.mark.real_model
def test_quantizations_that_cannot_be_made_are_refused_before_anything_is_measured(
    foundry: Foundry, starter: Manifest
) -> None:
    refused = foundry("compare", starter.alias, "--quants", "Q4_0,Q4_K_M", "--yes")
    assert refused.code == 2
    assert f"Q4_K_M of {starter.id} is not on this disk and cannot be made" in refused.err
    assert "llama-quantize, which is not here" in refused.err and "foundry engine install" in refused.err
    assert len(context.store(config.load()).manifests()) == 1, "nothing was made"
    assert "is not a type that models are quantized to" in foundry("compare", starter.alias, "--quants", "Q9").err
    two = foundry("compare", starter.alias, "phi-4-mini", "--quants", "Q8_0")
    assert two.code == 2 and "--quants is for one model, and 2 candidates were named" in two.err


def test_a_figure_counts_for_a_file_an_engine_its_version_and_its_arguments(tmp_path: Path) -> None:
    """A cache in four bits changes what a model says as much as another quantization does."""
    against = reference.read(Path(part(tmp_path)))
    row = CandidateRow("", "m", "m", file_sha256="a" * 64, engine="llama.cpp (bundled)", engine_version="xllamacpp 1")
    with Results(tmp_path / "results.db") as results:
        run = fidelity_runs.new_run(against, 8)
        fidelity_runs.keep(results, run, [(msgspec.structs.replace(row, run=run.id), Fidelity(positions=4))])

        def kept(every: int | None = 8, **other: str | None) -> bool:
            asked = msgspec.structs.replace(row, **other)
            return fidelity_runs.kept(results, asked, against, every) is not None

        assert kept() and kept(32) and kept(None) and kept(engine_version=None)
        assert not kept(4), "fewer positions than were asked for"
        assert not kept(engine_version="xllamacpp 1 --cache-type-k q4_0")
        assert not kept(engine="llama.cpp (native)") and not kept(file_sha256="b" * 64)
        whole = reference.read(reference.shipped()[0])
        assert fidelity_runs.kept(results, row, whole, 8) is None, "of another reference"


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
