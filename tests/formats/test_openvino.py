"""An OpenVINO folder by its names: what it is for, and what damage to it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localfoundry.errors import NotAModel
from localfoundry.formats.detect import identify
from localfoundry.formats.openvino import OpenVinoFolder, embeds, read_openvino_folder
from localfoundry.sources import local

PORT = '<port id="0" precision="FP32" names="{}"></port>'


def folder(path: Path, *names: str, filling: int = 0) -> Path:
    ports = " " * filling + "".join(PORT.format(name) for name in names)
    (path / "openvino_model.xml").write_text(f'<net name="{names[0]}">{ports}</net>')
    for name in ("openvino_model.bin", "openvino_tokenizer.xml", "openvino_tokenizer.bin"):
        (path / name).write_text("x")
    return path


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (("input_ids", "last_hidden_state"), True),
        (("input_ids", "token_embeddings,17", "sentence_embedding"), True),
        (("input_ids", "beam_idx", "logits"), False),
        (("last_hidden_state", "11,logits"), False),
        (("input_ids",), False),
    ],
)
def test_a_graph_that_gives_states_and_no_logits_embeds(tmp_path: Path, names: tuple[str, ...], answer: bool) -> None:
    assert embeds(folder(tmp_path, *names)) is answer
    assert embeds(folder(tmp_path, *names, filling=2**20 - 60)) is answer, "a name across two pieces that are read"


def test_what_embeds_needs_no_detokenizer_and_is_pulled_for_that(tmp_path: Path) -> None:
    """Who writes a model that embeds for OpenVINO has no use for one."""
    assert identify(folder(tmp_path, "last_hidden_state")) == "openvino"
    assert local.plan(tmp_path).tasks == ("embeddings",)
    with pytest.raises(NotAModel, match=r"no openvino_detokenizer\.xml"):
        identify(folder(tmp_path, "logits"))


def test_the_configuration_is_read_within_bounds(tmp_path: Path) -> None:
    folder(tmp_path, "last_hidden_state")
    assert read_openvino_folder(tmp_path) == OpenVinoFolder(embeds=True)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 512}))
    assert read_openvino_folder(tmp_path) == OpenVinoFolder("bert", 512, True)
    for text in ("{", json.dumps({"max_position_embeddings": -1}), "[" * 100_000, " " * (2**20 + 1)):
        config.write_text(text)
        with pytest.raises(NotAModel, match=r"config\.json|max_position_embeddings"):
            read_openvino_folder(tmp_path)
