"""A model in several files is the same as in one: its shape, its memory, and that it can be pulled at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formats.gguf_file import gguf
from harness import Foundry
from hub_server import HubServer, Repo
from localfoundry.errors import NotAModel
from localfoundry.fit import Load, memory, of_file
from localfoundry.formats.gguf import read_gguf, read_header, read_part
from localfoundry.formats.split import joined, names_of, read_model

METADATA: dict[str, Any] = {
    "general.architecture": "llama", "general.file_type": 7, "llama.context_length": 256, "llama.embedding_length": 64,
    "llama.block_count": 2, "llama.feed_forward_length": 96, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"token{n}" for n in range(32)], "tokenizer.chat_template": "{{ messages }}",
}  # fmt: skip
TENSORS = [
    ("token_embd.weight", (64, 32), 8, 64 * 32 // 32 * 34), ("output_norm.weight", (64,), 0, 256),
    ("blk.0.attn_q.weight", (64, 64), 0, 16384), ("blk.0.attn_q.bias", (64,), 0, 256),
    ("blk.1.ffn_up.weight", (64, 96), 0, 24576), ("output.weight", (64, 32), 8, 64 * 32 // 32 * 34),
]  # fmt: skip
NAMES = names_of("tiny-Q8_0-00001-of-00003.gguf")


def whole() -> bytes:
    return gguf(METADATA, TENSORS)


def parts() -> list[bytes]:
    first = gguf({**METADATA, "split.no": 0, "split.count": 3}, TENSORS[:2])
    return [first, *(gguf({"split.no": n, "split.count": 3}, TENSORS[2 * n : 2 * n + 2]) for n in (1, 2))]


def written(folder: Path) -> Path:
    for name, data in zip(NAMES, parts(), strict=True):
        (folder / name).write_bytes(data)
    return folder / NAMES[0]


def test_names() -> None:
    assert [f"tiny-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)] == NAMES
    assert names_of("tiny.gguf") == ["tiny.gguf"]
    assert names_of("x-00001-of-99999.gguf") == ["x-00001-of-99999.gguf"], "no such number of files is opened"


def test_a_split_model_has_the_shape_and_memory_of_the_whole(tmp_path: Path) -> None:
    """Only the first part was counted once, and the estimate was off by all the others."""
    path = tmp_path / "whole.gguf"
    path.write_bytes(whole())
    one, many = of_file(path), of_file(written(tmp_path))
    assert one is not None and many is not None
    assert many.weight_bytes == one.weight_bytes == sum(size for *_, size in TENSORS)
    assert many == one
    assert memory(many, Load(256)) == memory(one, Load(256))
    header = read_model(written(tmp_path))
    assert header.parameters == read_gguf(path).parameters
    assert header.qkv_bias and not header.tied_embeddings, "both are told by later parts"


@pytest.mark.parametrize("order", [(2, 1), (1,), (1, 1), (1, 2, 2)])
def test_parts_that_are_not_of_one_model_are_refused(order: tuple[int, ...]) -> None:
    def reader(data: bytes) -> Any:
        return lambda offset, size: data[offset : offset + size]

    first, *later = parts()
    with pytest.raises(NotAModel, match="3 parts"):
        joined(read_header(reader(first)), [read_part(reader(later[n - 1])) for n in order])


def test_a_split_model_can_be_pulled_and_estimated_from_afar(foundry: Foundry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused once: its second part was read as if it were a model."""
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repos["org/tiny-GGUF"] = Repo(dict(zip(NAMES, parts(), strict=True)))
        afar = foundry.ok("model", "info", "hf:org/tiny-GGUF", "--remote", "--json").json
        foundry.ok("model", "download", "hf:org/tiny-GGUF")
    here = foundry.ok("model", "info", "hf:org/tiny-GGUF", "--json").json
    assert afar["memory"]["contexts"][0]["weightsBytes"] == here["memory"]["contexts"][0]["weightsBytes"]
    assert here["memory"]["contexts"][0]["weightsBytes"] >= sum(size for *_, size in TENSORS)
