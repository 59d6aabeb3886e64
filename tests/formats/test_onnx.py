"""Folders of ONNX Runtime GenAI: what they say, and that a configuration cannot reach out of its folder."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.errors import NotAModel
from localfoundry.formats.onnx import read_config, read_onnx_folder
from localfoundry.formats.summary import of_path


def genai(**changes: Any) -> dict[str, Any]:
    decoder = {"filename": "model.onnx", "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
               "head_size": 64, "hidden_size": 576, "session_options": {}}  # fmt: skip
    model = {"type": "llama", "context_length": 2048, "vocab_size": 49152, "eos_token_id": [2, 0], "decoder": decoder}
    return {"model": model | changes, "search": {"max_length": 2048}}


def folder_of(folder: Path, document: Any, *names: str) -> Path:
    (folder / "genai_config.json").write_text(json.dumps(document))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_sound_folder_says_what_it_is(tmp_path: Path) -> None:
    folder_of(tmp_path, genai(vision={"filename": "sub/vision.onnx"}), "model.onnx", "sub/vision.onnx")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    found = read_onnx_folder(tmp_path)
    assert (found.architecture, found.layers, found.attention_heads, found.kv_heads) == ("llama", 30, 9, 3)
    assert (found.context_length, found.vocab_size, found.eos_ids) == (2048, 49152, (2, 0))
    assert set(found.files) == {"model.onnx", "sub/vision.onnx"}
    summary = of_path(tmp_path)
    assert (summary.format, summary.tokenizer, summary.context_length) == ("onnx", "GPT2Tokenizer", 2048)
    assert summary.template is not None and summary.template.words() == "none in the file"


def test_models_in_steps_name_their_files_too() -> None:
    steps = {"pipeline": [{"embed": {"filename": "e.onnx"}}, {"body": {"filename": "b.onnx"}}]}
    asked: list[str] = []
    read_config(json.dumps(genai(decoder=steps)).encode(), lambda name: not asked.append(name))  # type: ignore[func-returns-value]
    assert set(asked) == {"e.onnx", "b.onnx"}


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx",
        "/etc/passwd",
        "a/../../b",
        "C:\\model.onnx",
        "\\\\host\\share",
        "a//b",
        "./a",
        "a\0b",
        7,
        "x" * 600,
    ],
)
def test_a_name_that_leaves_the_folder_is_refused_before_it_is_looked_for(name: object) -> None:
    def look(_: str) -> bool:
        raise AssertionError("looked for")

    with pytest.raises(NotAModel, match=r"leaves its folder|no file name"):
        read_config(json.dumps(genai(decoder={"filename": name})).encode(), look)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "holds list"),
        ({}, "what model it is"),
        (genai(decoder={}), "names no model file"),
        (genai(), "'model.onnx', which is not there"),
        (genai(decoder={"filename": "model.onnx", "num_hidden_layers": "many"}), "not there|not a count"),
        (genai(decoder={"filename": "m", "session_options": {"custom_ops_library": "x.so"}}), "runs at load"),
        (genai(decoder={"pipeline": [{f"s{n}": {"filename": f"{n}.onnx"}} for n in range(300)]}), "names 300 files"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, document: Any, reason: str) -> None:
    with pytest.raises(NotAModel, match=reason):
        read_onnx_folder(folder_of(tmp_path, document))


def test_a_configuration_of_any_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(NotAModel, match="at most 1,048,576"):
        read_onnx_folder(tmp_path)


_KEYS = st.sampled_from(
    ["model", "type", "decoder", "filename", "context_length", "eos_token_id", "num_attention_heads", "pipeline"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner),
    max_leaves=12,
)


@given(st.one_of(_VALUES.map(lambda v: json.dumps(v).encode()), st.binary(max_size=60)))
def test_anything_is_read_or_refused(data: bytes) -> None:
    def exists(name: str) -> bool:
        assert not name.startswith("/") and ".." not in name.split("/")
        return True

    with contextlib.suppress(NotAModel):
        read_config(data, exists)
