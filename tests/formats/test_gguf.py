"""Reading GGUF headers: what a sound file says, and that no file, however made, does more than be refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.gguf_file import ARRAY, BOOL, I32, STRING, U8, U32, U64, Typed, gguf, string, tiny_llama
from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats import gguf as reader
from localfoundry.formats.gguf import GgufHeader, read_gguf, read_header
from localfoundry.formats.tokens import Vocabulary, special_tokens


class CountingRead:
    """A file in memory that counts how often and how much it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.calls = 0
        self.bytes = 0

    def __call__(self, offset: int, size: int) -> bytes:
        self.calls += 1
        piece = self.data[offset : offset + size]
        self.bytes += len(piece)
        return piece


def header_of(data: bytes) -> GgufHeader:
    return read_header(CountingRead(data), len(data))


def test_a_sound_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama())
    header = read_gguf(path)
    assert (header.architecture, header.name, header.license, header.kind) == ("llama", "Tiny", "apache-2.0", "model")
    assert (header.layers, header.hidden_size, header.ffn_size) == (2, 64, 96)
    assert (header.attention_heads, header.kv_heads, header.head_dim) == (4, 2, 16)
    assert (header.context_length, header.vocab_size) == (256, 32)
    assert header.quantization == "Q8_0"
    assert header.tensor_types == {"Q8_0": 1, "F32": 19}
    assert header.chat_template == "{{ messages }}"
    assert header.tied_embeddings
    assert header.weight_bytes is not None
    assert header.header_bytes + header.weight_bytes == path.stat().st_size == header.file_size_bytes


def test_the_shape_is_given_only_where_its_parameter_count_is_the_files_own() -> None:
    shape = header_of(tiny_llama()).shape()
    assert shape is not None
    assert shape.parameters() == header_of(tiny_llama()).parameters == 64 * 32 + 64 + 2 * 30848
    assert header_of(tiny_llama(llama__block_count=3)).shape() is None
    assert header_of(tiny_llama(llama__context_length=None)).shape() is None


def test_what_a_file_does_not_say_is_none() -> None:
    header = header_of(gguf({"general.architecture": "llama"}))
    assert header.context_length is header.layers is header.kv_heads is header.head_dim is header.vocab_size is None
    assert header.chat_template is header.name is header.quantization is None


def test_without_its_own_word_the_quantization_is_the_type_of_most_values() -> None:
    assert header_of(tiny_llama(general__file_type=None)).quantization == "F32"


def test_heads_that_differ_between_layers() -> None:
    header = header_of(tiny_llama(llama__attention__head_count_kv=Typed(ARRAY, (I32, [2, 0]))))
    assert (header.kv_heads, header.kv_heads_per_layer) == (2, (2, 0))
    assert header.shape() is None


def test_sliding_windows_of_both_kinds() -> None:
    each = header_of(
        tiny_llama(
            llama__attention__sliding_window=128,
            llama__attention__sliding_window_pattern=Typed(ARRAY, (BOOL, [True, False])),
        )
    )
    assert (each.sliding_window, each.sliding_window_layers, each.sliding_window_period) == (128, (True, False), None)
    period = header_of(tiny_llama(llama__attention__sliding_window_pattern=6))
    assert (period.sliding_window_layers, period.sliding_window_period) == ((), 6)


def test_head_size_of_its_own_wins_over_hidden_size_by_heads() -> None:
    header = header_of(tiny_llama(llama__attention__key_length=128, llama__attention__value_length=64))
    assert (header.head_dim, header.value_head_dim) == (128, 64)


def test_a_long_vocabulary_is_counted_and_not_built() -> None:
    """A quarter of a million tokens is usual; what is kept of them is their number."""
    tokens = Typed(ARRAY, (STRING, ["x"] * 250_000))
    scores = Typed(ARRAY, (U32, [0] * 250_000))
    data = gguf({"general.architecture": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores})
    read = CountingRead(data)
    header = read_header(read, len(data))
    assert header.vocab_size == 250_000
    assert read.calls <= 8, "a remote reader would pay for each of them"


def test_big_numbers_that_are_stepped_over_must_be_there() -> None:
    """The last thing in a header may be skipped without a read; the file's size still tells that it is missing."""
    data = gguf({"general.architecture": "llama", "scores": Typed(ARRAY, (U32, [0] * 5000))})
    with pytest.raises(NotAModel, match="cut short"):
        header_of(data[:-100])


def test_a_partial_download_is_found_out() -> None:
    data = tiny_llama()
    with pytest.raises(NotAModel, match="cut short: its tensors need"):
        header_of(data[:-1000])


def test_every_truncation_is_refused() -> None:
    data = tiny_llama()
    end = header_of(data).header_bytes
    for size in [*range(end + 64), *range(end + 64, len(data) - 32, 509)]:
        with pytest.raises(NotAModel):
            header_of(data[:size])


def test_a_part_of_a_split_model() -> None:
    first = header_of(tiny_llama(split__no=0, split__count=3))
    assert (first.parts, first.parameters) == (3, None)
    with pytest.raises(NotAModel, match="part 2 of 3"):
        header_of(tiny_llama(split__no=1, split__count=3))


def test_tensor_types_of_the_future_are_named_and_not_refused() -> None:
    header = header_of(gguf({"general.architecture": "llama"}, [("a", (32,), 99, 32)]))
    assert (header.tensor_types, header.weight_bytes, header.quantization) == ({"type99": 1}, None, "type99")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"GGUF", "cut short"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (gguf({}, version=1), "version 1"),
        (gguf({}, version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (gguf({}), "does not name its architecture"),
        (gguf({}, key_count=2**63), "number of keys"),
        (gguf({}, tensor_count=2**63), "number of tensors"),
        (gguf({"a": 1}, key_count=2), "cut short"),
        (gguf([("a", 1), ("a", 2)]), "there twice"),
        (gguf([(b"\xff\xfe", 1)]), "not text"),
        (gguf({"a": Typed(U8, 1)})[:-5] + struct.pack("<IB", 77, 1), "unknown type 77"),
        (gguf({"general.architecture": 5}), "is not text"),
        (tiny_llama(llama__context_length="many"), "is not a count"),
        (tiny_llama(llama__context_length=Typed(I32, -1)), "is not a count"),
        (tiny_llama(llama__block_count=True), "is not a count"),
        (tiny_llama(llama__block_count=Typed(U64, 2**60)), "is not a count"),
        (tiny_llama(llama__block_count=2.5), "is not a count"),
        (tiny_llama(general__alignment=33), "power of two"),
        (gguf({"general.architecture": "x"}, [("t", (1, 1, 1, 1, 1), 0, 4)]), "5 dimensions"),
        (gguf({"general.architecture": "x"}, [("t", (2**40, 2**40), 0, 4)]), "values"),
        (gguf({"general.architecture": "x"}, [("t", (2**60,), 0, 4)]), "dimension"),
        (gguf({"general.architecture": "x"}, [("t", (33,), 8, 34)]), "whole blocks"),
        (gguf({"general.architecture": "x"}, [("t", (1,), 0, 4), ("t", (1,), 0, 4)]), "same name"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(NotAModel, match=reason):
        header_of(data)


@pytest.mark.parametrize("kind", [*range(14), 2**32 - 1])
@pytest.mark.parametrize("count", [2**20, 2**32, 2**63, 2**64 - 1])
def test_an_array_that_claims_to_be_endless_costs_nothing(kind: int, count: int) -> None:
    """The `gguf` package loops over the claimed count of such a file of 43 bytes until it is killed."""
    array = gguf({}, key_count=1) + string("a") + struct.pack("<IIQ", ARRAY, kind, count)
    read = CountingRead(array)
    with pytest.raises(NotAModel):
        read_header(read, len(array))
    assert read.calls <= 3


def test_arrays_within_arrays_are_refused() -> None:
    """Depth costs the reader a stack frame for 12 bytes of file."""
    nested = gguf({}, key_count=1) + string("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 10_000
    with pytest.raises(NotAModel, match="arrays within arrays"):
        header_of(nested)


def test_a_string_that_claims_to_be_endless() -> None:
    for size in (2**24 + 1, 2**63, 2**64 - 1):
        data = gguf({}, key_count=1) + string("a") + struct.pack("<IQ", STRING, size)
        with pytest.raises(NotAModel, match="length"):
            header_of(data)


def test_the_header_as_a_whole_is_bounded() -> None:
    """Each value is within its limit and their sum is not. The file is sparse: nobody has to write 160 MiB."""
    written = {0: gguf({}, key_count=5)}
    offset = len(written[0])
    for n in range(5):
        written[offset] = string(f"key{n}") + struct.pack("<IIQ", ARRAY, U8, 2**25)
        offset += len(written[offset]) + 2**25

    def sparse(start: int, size: int) -> bytes:
        piece = bytearray(size)
        for at, data in written.items():
            if start <= at < start + size:
                piece[at - start : at - start + len(data)] = data
        return bytes(piece[:size])

    with pytest.raises(NotAModel, match="header passes"):
        read_header(sparse, offset)


def test_kept_numbers_are_bounded_in_all() -> None:
    """Many arrays, each short enough to be kept, would together take many times the file's size in memory."""
    many = {f"a{n}": Typed(ARRAY, (U8, [0] * 4000)) for n in range(100)}
    header = header_of(gguf({"general.architecture": "llama", **many}))
    assert header.architecture == "llama"


def test_a_file_that_cannot_be_read_is_a_matter_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot read"):
        read_gguf(tmp_path / "absent.gguf")


def test_the_message_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    with pytest.raises(NotAModel, match=r"broken\.gguf: GGUF file is cut short"):
        read_gguf(tmp_path / "broken.gguf")


def _is_read_or_refused(data: bytes) -> None:
    read = CountingRead(data)
    try:
        header = read_header(read, len(data))
    except NotAModel:
        pass
    else:
        assert header.header_bytes <= reader.MAX_HEADER_BYTES + 2**20
        header.shape()
    assert read.calls <= 64
    assert read.bytes <= 8 * len(data) + 2**20


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    _is_read_or_refused(data)


@given(st.binary(max_size=400))
def test_any_bytes_after_a_sound_beginning_are_read_or_refused(data: bytes) -> None:
    _is_read_or_refused(b"GGUF\x03\x00\x00\x00" + data)


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_flipped_bits_are_read_or_refused(seed: int, flips: int) -> None:
    data = bytearray(tiny_llama())
    end = header_of(bytes(data)).header_bytes
    chosen = random.Random(seed)
    for _ in range(flips):
        data[chosen.randrange(end)] ^= 1 << chosen.randrange(8)
    _is_read_or_refused(bytes(data))


_VALUES = st.recursive(
    st.one_of(
        st.integers(0, 2**32 - 1),
        st.booleans(),
        st.just(1.5),
        st.sampled_from(["", "llama", "{{ é }}"]),
        st.binary(max_size=20).map(lambda raw: Typed(STRING, raw)),
        st.integers(-(2**31), 2**31 - 1).map(lambda n: Typed(I32, n)),
    ),
    lambda inner: st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5) | inner,
    max_leaves=3,
)
_KEYS = st.sampled_from(
    [
        "general.alignment", "general.file_type", "general.name", "general.type", "split.count", "split.no",
        "llama.context_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.embedding_length", "llama.attention.sliding_window_pattern", "tokenizer.chat_template",
    ]
)  # fmt: skip


@given(st.dictionaries(_KEYS, _VALUES))
def test_any_type_under_any_key_is_read_or_refused(metadata: dict[str, Any]) -> None:
    _is_read_or_refused(gguf({"general.architecture": "llama", **metadata}))


def test_named_tokens_are_found_without_building_the_vocabulary() -> None:
    texts = ["<s>", "", "é", *(f"t{n}" for n in range(5000)), "<|end|>"]
    data = tiny_llama(
        tokenizer__ggml__tokens=Typed(ARRAY, (STRING, texts)),
        tokenizer__ggml__bos_token_id=0,
        tokenizer__ggml__eos_token_id=5003,
        tokenizer__ggml__eot_token_id=99_999,
        tokenizer__ggml__add_bos_token=True,
    )
    header = header_of(data)
    assert header.token_ids == {"bos": 0, "eos": 5003, "eot": 99_999}
    assert header.adds_bos is True
    assert header.tokens is not None and header.tokens.count == 5004
    vocabulary = Vocabulary(CountingRead(data), header.tokens)
    assert special_tokens(header, vocabulary) == {"bos": "<s>", "eos": "<|end|>"}
    assert vocabulary.texts([1, 2, -1]) == {1: "", 2: "é"}
    assert "t4999" in vocabulary and "é" in vocabulary
    assert "t5000" not in vocabulary and "4999" not in vocabulary


@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("found").glob("gguf-*")), ids=lambda p: p.name)
def test_what_fuzzing_found_stays_found(path: Path) -> None:
    _is_read_or_refused(path.read_bytes())
