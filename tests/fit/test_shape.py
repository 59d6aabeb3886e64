"""The shape of a model: the same from a file and from afar, right where layers differ, and no guess for nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formats.gguf_file import Typed, tiny_llama
from localfoundry.catalog.lookup import Catalog
from localfoundry.errors import NotAModel
from localfoundry.fit import Load, memory, of_catalog, of_file
from localfoundry.formats.gguf import read_gguf, read_header
from localfoundry.formats.shape import ModelShape, of_gguf
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store


def shape_of(tmp_path: Path, **changes: Any) -> ModelShape:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama(**changes))
    shape = of_gguf(read_gguf(path))
    assert shape is not None
    return shape


def test_a_file_and_its_header_read_in_pieces_agree_to_the_byte(starter: Manifest, isolated: Path) -> None:
    """What `sources/remote.py` reads is the same bytes through the same reader, with no file behind it."""
    path = Store(isolated / "foundry" / "models").main_file(starter)
    data = path.read_bytes()
    far = of_gguf(read_header(lambda offset, size: data[offset : offset + size]))
    near = of_file(path)
    assert near is not None and far is not None
    assert near == far
    assert near.weight_bytes == far.weight_bytes == read_gguf(path).weight_bytes
    assert memory(near, Load(8192, 8)) == memory(far, Load(8192, 8))


def test_a_pulled_version_keeps_its_shape(starter: Manifest, isolated: Path) -> None:
    found = Store(isolated / "foundry" / "models").find(starter.id)
    assert found is not None
    path = Store(isolated / "foundry" / "models").main_file(found)
    assert found.shape in (None, of_file(path))  # None: pulled before there was the field


def test_the_catalogs_facts_come_near_the_file(starter: Manifest, isolated: Path) -> None:
    entry = Catalog.load().find("smollm2-135m")
    assert entry is not None and entry[0].architecture is not None
    near = of_file(Store(isolated / "foundry" / "models").main_file(starter))
    assert near is not None
    guess = of_catalog(entry[0].architecture, starter.size_bytes, "Q4_1")
    exact, estimated = memory(near, Load(8192, 8)), memory(guess, Load(8192, 8))
    assert estimated.total == pytest.approx(exact.total, rel=0.05)
    assert estimated.interval.holds(exact.total)
    assert estimated["kv_cache"] == exact["kv_cache"]


def test_windows_are_read_from_the_file_or_known_of_the_architecture(tmp_path: Path) -> None:
    def windowed(**changes: Any) -> list[tuple[int, bool]]:
        return [(kind.count, kind.windowed) for kind in shape_of(tmp_path, **changes).layers]

    assert windowed() == [(2, False)]
    assert windowed(llama__attention__sliding_window=64) == [(2, False)]  # the engine uses none in this architecture
    pattern = Typed(9, (7, [True, False]))
    by_file = windowed(llama__attention__sliding_window=64, llama__attention__sliding_window_pattern=pattern)
    assert sorted(by_file) == [(1, False), (1, True)]


def test_layers_without_attention_keep_nothing(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, llama__attention__head_count_kv=Typed(9, (5, [2, 0])))
    assert sorted((kind.count, kind.keys) for kind in shape.layers) == [(1, 0), (1, 32)]


@pytest.mark.parametrize(
    "changes",
    [
        {"llama.attention.head_count_kv": 8},  # more than attention heads
        {"llama.block_count": 100_000},
        {"llama.embedding_length": Typed(10, 2**40)},
        {"llama.feed_forward_length": Typed(10, 2**40)},
        {"llama.expert_count": 2, "llama.expert_used_count": 3},
        {"llama.block_count": 3, "llama.attention.head_count_kv": Typed(9, (5, [2, 1]))},
        {"llama.block_count": Typed(10, 2**40)},
        {"llama.block_count": 0},
        {"llama.embedding_length": 0},
        {"llama.attention.key_length": 0},
        {"llama.attention.head_count": 65},  # more than the embedding has values: a head would have none
        {"llama.context_length": Typed(10, 2**40)},
        {"llama.expert_count": Typed(10, 2**40)},
        {"llama.expert_count": 4, "llama.expert_feed_forward_length": Typed(10, 2**40)},
        {"llama.attention.kv_lora_rank": Typed(10, 2**40)},
        {"llama.shortconv.l_cache": Typed(10, 2**40)},
        {"llama.ssm.inner_size": Typed(10, 2**40), "llama.ssm.state_size": 128, "llama.ssm.conv_kernel": 4},
    ],
)
def test_an_impossible_shape_is_refused_and_not_guessed(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama(**changes))
    with pytest.raises(NotAModel, match="impossible shape"):
        of_gguf(read_gguf(path))
    assert of_file(path) is None


@pytest.mark.parametrize("key", ["llama.attention.head_count", "llama.embedding_length", "llama.block_count"])
def test_a_negative_dimension_is_no_count(tmp_path: Path, key: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama(**{key: Typed(5, -4)}))
    with pytest.raises(NotAModel, match="is not a count"):
        of_gguf(read_gguf(path))


def test_no_attention_heads_give_no_estimate(tmp_path: Path) -> None:
    """Recurrent models state none; for others nothing can be computed from it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama(**{"llama.attention.head_count": 0}))
    assert of_gguf(read_gguf(path)) is None


def test_a_window_longer_than_the_context_takes_no_more_than_the_context(tmp_path: Path) -> None:
    changes = {"llama__attention__sliding_window_pattern": Typed(9, (7, [True, False]))}
    short = shape_of(tmp_path, llama__attention__sliding_window=256, **changes)
    long = shape_of(tmp_path, llama__attention__sliding_window=Typed(10, 2**40), **changes)
    assert any(kind.windowed for kind in long.layers)
    assert memory(long, Load(256)).total == memory(short, Load(256)).total


@pytest.mark.parametrize("missing", ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"])
def test_a_header_that_lacks_a_dimension_gives_no_estimate(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama(**{missing: None}))
    assert of_gguf(read_gguf(path)) is None
