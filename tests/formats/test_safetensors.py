"""Safetensors headers: what a sound file says, each damage named, and that any bytes are read or refused."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats.bounded_json import MAX_DEPTH
from localfoundry.formats.safetensors import read_config, read_header, read_safetensors
from localfoundry.formats.summary import of_path

FOUND = Path(__file__).with_name("found")


def file_of(entries: dict[str, Any] | bytes, data: int | None = None) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    ends = [e["data_offsets"][1] for e in entries.values() if "data_offsets" in e] if isinstance(entries, dict) else []
    return struct.pack("<Q", len(raw)) + raw + bytes(max(ends, default=0) if data is None else data)


def tensor(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


SOUND = {
    "__metadata__": {"format": "pt"},
    "w": tensor("BF16", [4, 8], 0, 64),
    "b": tensor("F32", [3], 64, 76),
    "packed": tensor("F4", [6], 76, 79),
    "scalar": tensor("I64", [], 79, 87),
}


def header_of(data: bytes) -> Any:
    return read_header(lambda offset, size: data[offset : offset + size], len(data))


def test_a_sound_file_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(file_of(SOUND))
    header = read_safetensors(tmp_path / "m.safetensors")
    assert header.tensor_types == {"BF16": 1, "F32": 1, "F4": 1, "I64": 1}
    assert (header.parameters, header.data_bytes, header.metadata) == (32 + 3 + 6 + 1, 87, {"format": "pt"})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "first eight bytes"),
        (struct.pack("<Q", 2**63) + b"{", "a header of 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 1000) + b"{}", "its header needs 1,008 bytes"),
        (file_of(b"[]"), "does not begin with an object"),
        (file_of(b"{}x"), "not sound JSON"),
        (file_of(b'{"a": NaN}'), "no JSON number"),
        (file_of(b'{"a": {}, "a": {}}'), "there twice"),
        (file_of(b'{"a": ' + b"[" * 100_000), "nested too deeply"),
        (file_of(b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}"), "more than 64 deep"),
        (file_of(b'{"a": [' + b"0," * 1_000_001 + b"0]}"), "values, at most"),
        (file_of(b'{"a": ' + b"9" * 5000 + b"}"), "not sound JSON"),
        (file_of(b'{"\xff": 1}'), "not sound JSON"),
        (file_of({"a": {"dtype": "F32"}}), "not described by dtype"),
        (file_of({"a": tensor("F33", [1], 0, 4)}), "not known"),
        (file_of({"a": tensor("F32", [-1], 0, 4)}), "shape of 'a'"),
        (file_of({"a": tensor("F32", [True], 0, 4)}), "shape of 'a'"),
        (file_of({"a": tensor("F32", [1] * 9, 0, 4)}), "up to 8 counts"),
        (file_of({"a": tensor("F32", [2**40, 2**40], 0, 4)}), "do not fill its offsets"),
        (file_of({"a": tensor("F32", [1], 4, 0)}, 4), "not a begin and an end"),
        (file_of({"a": tensor("F32", [1], 0, 8)}), "do not fill its offsets"),
        (file_of({"a": tensor("F32", [1], 4, 8)}), "a gap before tensor 'a'"),
        (file_of({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}), "an overlap at tensor 'b'"),
        (file_of({"a": tensor("F32", [1], 0, 4)}, 3), "its tensors need"),
        (file_of({"a": tensor("F32", [1], 0, 4)}, 5), "its tensors need"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(NotAModel, match=reason):
        header_of(data)


def test_every_truncation_is_refused() -> None:
    data = file_of(SOUND)
    for size in range(len(data)):
        with pytest.raises(NotAModel):
            header_of(data[:size])


def test_a_file_that_cannot_be_read_is_a_matter_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot read"):
        read_safetensors(tmp_path / "absent.safetensors")


def test_a_folder_of_the_hub_as_it_is(tmp_path: Path) -> None:
    """Configuration beside the weights; a template in a file of its own wins over the tokenizer's."""
    (tmp_path / "model.safetensors").write_bytes(file_of(SOUND))
    shape = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 26, "num_attention_heads": 4}}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    tokenizer = {"tokenizer_class": "GemmaTokenizer", "chat_template": "x", "eos_token": {"content": "<eos>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    found = of_path(tmp_path)
    assert (found.architecture, found.layers, found.attention_heads, found.kv_heads) == ("gemma3", 26, 4, 4)
    assert (found.tokenizer, found.chat_template) == ("GemmaTokenizer", "{{ messages }}")


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, framed: bool) -> None:
    _is_read_or_refused(struct.pack("<Q", len(data)) + data if framed else data)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_flipped_bits_are_read_or_refused(seed: int, flips: int) -> None:
    data = bytearray(file_of(SOUND))
    chosen = random.Random(seed)
    for _ in range(flips):
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    _is_read_or_refused(bytes(data))


_KEYS = st.sampled_from(
    ["dtype", "shape", "data_offsets", "text_config", "num_hidden_layers", "model_type", "quantization_config"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), _JSON))
def test_any_object_is_read_or_refused(document: dict[str, Any]) -> None:
    raw = json.dumps(document).encode()
    _is_read_or_refused(struct.pack("<Q", len(raw)) + raw)
    with contextlib.suppress(NotAModel):
        read_config(raw)


@pytest.mark.parametrize("path", sorted(FOUND.glob("safetensors-*")), ids=lambda p: p.name)
def test_what_fuzzing_found_stays_found(path: Path) -> None:
    _is_read_or_refused(path.read_bytes())


def _is_read_or_refused(data: bytes) -> None:
    try:
        header = header_of(data)
    except NotAModel:
        return
    assert header.header_bytes + header.data_bytes == len(data)
