"""A model as OpenVINO's own folder: what the version is, and what happens where none can be made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from build.quantized_gguf import write_model
from localfoundry import config
from localfoundry.build import openvino, reencode
from localfoundry.errors import MissingExtra, UsageError
from localfoundry.formats.detect import identify
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from store_crashes import assert_clean


@pytest.fixture
def store() -> Store:
    return Store(config.load().models_dir)


@pytest.fixture
def stranger(store: Store, tmp_path: Path) -> Manifest:
    """A sound GGUF file that is no model of a family that OpenVINO knows."""
    path = write_model(tmp_path / "stranger.gguf", ("Q4_1", "F32"))
    plan = PullPlan("stranger", None, "stranger", f"file:{path}", "gguf", (PlannedFile(path.name, local=path),))
    return asyncio.run(pull(store, plan))


def test_the_folder_is_a_version_of_the_same_model(reencoded_starter: Path, pulled_starter: Manifest) -> None:
    store = Store(reencoded_starter)
    made = reencode.find(store, pulled_starter, reencode.OPENVINO)
    assert made is not None and made.recipe is not None
    assert (made.name, made.alias) == (f"{pulled_starter.name}-openvino", pulled_starter.alias)
    assert (made.format, made.quantization, made.recipe.changed) == ("openvino", "Q8_0", {"Q4_1": "Q8_0"})
    assert 0 < made.recipe.rms_error < 0.01
    assert made.context_length == pulled_starter.context_length and made.shape is not None
    assert identify(store.main_file(made)) == "openvino"
    assert {file.name for file in made.files} >= {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"}
    assert all((store.folder(made) / file.name).stat().st_size == file.size_bytes for file in made.files)
    plan = reencode.plan(store, pulled_starter, "OpenVINO")
    assert plan.present == made
    assert plan.size_bytes == pytest.approx(made.size_bytes, rel=0.05)
    meant = store.find(pulled_starter.alias)
    assert meant is not None and meant.id == pulled_starter.id, "the alias means what was pulled"


def test_what_the_library_makes_nothing_of_is_told_in_its_words(store: Store, stranger: Manifest) -> None:
    with pytest.raises(UsageError, match="no OpenVINO folder can be made of it: the library makes no graph"):
        reencode.carry_out(store, reencode.plan(store, stranger, reencode.OPENVINO))
    assert store.manifests() == [stranger]
    assert_clean(store)


def test_without_the_library_it_is_said_how_to_get_it(
    store: Store, stranger: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "_LIBRARY", "no_such_library")
    with pytest.raises(MissingExtra) as refused:
        reencode.carry_out(store, reencode.plan(store, stranger, reencode.OPENVINO))
    assert refused.value.hint == "pip install 'localfoundry[openvino]'"
    assert_clean(store)


@pytest.mark.parametrize("target", ["q4_k", "", "OPENVINO2"])
def test_a_target_that_there_is_not_is_refused_with_those_that_there_are(target: str) -> None:
    with pytest.raises(UsageError, match="q8_0, f16 or openvino"):
        reencode.target_of(target)
    assert reencode.target_of("OpenVino") == reencode.OPENVINO
