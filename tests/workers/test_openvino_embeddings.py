"""Embeddings in OpenVINO: a small encoder as a process, beside the same computed in numpy, one text at a time."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localfoundry.workers.embedding import batches
from localfoundry.workers.generation import Unsupported
from localfoundry.workers.openvino_embeddings import Embedder, longest_of, pooling_of
from workers import tiny_encoder
from workers.openvino_process import Process

TEXTS = ["a hat", "the sea is in the hat on the tin", "tea", "nine hens ate the oats in the shed at the sea", "a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.write(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Iterator[Process]:
    made = Process(folder.parent, folder, tasks=("embeddings",))
    yield made.ready()
    made.stop()


def vectors(answer: Any) -> Any:
    return np.array([item["embedding"] for item in answer["data"]])


def tokens_of(encoder: Process, text: str) -> list[int]:
    found: list[int] = encoder.post("/tokenize", content=text, add_special=True)["tokens"]
    return found


def test_vectors_are_those_of_each_text_alone(encoder: Process) -> None:
    """Texts of several lengths are computed together: what fills the shorter ones up is no part of them."""
    answer = encoder.post("/v1/embeddings", input=TEXTS)
    found = vectors(answer)
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    tokens = [tokens_of(encoder, text) for text in TEXTS]
    expected = np.array([tiny_encoder.states(one).mean(0) for one in tokens])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (found * expected).sum(1).min() > 0.9999
    assert (found[0] * found[1]).sum() < 0.99, "different texts have different vectors"
    count = sum(map(len, tokens))
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_the_forms_of_the_api(encoder: Process) -> None:
    floats = vectors(encoder.post("/v1/embeddings", input="tea"))[0]
    packed = encoder.post("/v1/embeddings", input=["tea"], encoding_format="base64")["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4") == pytest.approx(floats, abs=1e-6)
    by_tokens = encoder.post("/v1/embeddings", input=tokens_of(encoder, "tea"))
    assert vectors(by_tokens)[0] == pytest.approx(floats, abs=1e-6)


def test_more_texts_than_a_batch_come_back_in_their_order(encoder: Process) -> None:
    texts = ["tea " * (1 + number % 7) + chr(97 + number % 26) for number in range(80)]
    together = vectors(encoder.post("/v1/embeddings", input=texts))
    for place in (0, 41, 79):
        assert together[place] == pytest.approx(
            vectors(encoder.post("/v1/embeddings", input=texts[place]))[0], abs=1e-4
        )


def test_texts_that_are_too_long_are_refused_with_counts_and_never_cut(encoder: Process) -> None:
    """The model has 64 places, though the context that was asked for is larger."""
    full = [[7] * tiny_encoder.PLACES]
    assert encoder.post("/v1/embeddings", input=full)["usage"]["total_tokens"] == tiny_encoder.PLACES
    error = encoder.post("/v1/embeddings", 400, input=["tea", "\x01" * (tiny_encoder.PLACES + 1)])["error"]
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (tiny_encoder.PLACES + 1, tiny_encoder.PLACES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "is empty"),
        ([], "expected a text"),
        ([[99_999]], "is no token of this model"),
        (["a", 5], "expected a text"),
    ],
)
def test_inputs_that_are_none_are_refused(encoder: Process, given: Any, words: str) -> None:
    assert words in encoder.post("/v1/embeddings", 400, input=given)["error"]["message"]


def test_it_writes_no_text(encoder: Process) -> None:
    assert "makes embeddings and no text" in encoder.complete(400)["error"]["message"]


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_other_ways_to_pool(folder: Path, pooling: str) -> None:
    one = Embedder(folder, 512, "CPU", {"pooling": pooling})
    tokens = [one.encode(text, True) for text in TEXTS]
    for given, vector in zip(tokens, one.embed(tokens), strict=True):
        expected = tiny_encoder.states(given)[0 if pooling == "cls" else -1]
        assert (np.array(vector) * expected).sum() / np.linalg.norm(expected) > 0.9999


def test_a_folder_that_does_not_say_how_to_pool_is_no_guess(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="engineArguments to --pooling mean, cls or last"):
        pooling_of(tmp_path, None)
    assert pooling_of(tmp_path, "last") == "last"
    (tmp_path / "1_Pooling").mkdir()
    said = tmp_path / "1_Pooling" / "config.json"
    said.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}))
    with pytest.raises(Unsupported, match="names 2 ways"):
        pooling_of(tmp_path, None)
    said.write_text("{")
    with pytest.raises(Unsupported, match=r"config\.json cannot be read"):
        pooling_of(tmp_path, None)


def test_a_layer_behind_the_pooling_is_not_left_out_in_silence(tmp_path: Path) -> None:
    parts = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Dense")]
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(Unsupported, match="Dense, which is not computed here"):
        pooling_of(tmp_path, "mean")


def test_the_longest_text_is_what_the_folder_says(tmp_path: Path) -> None:
    assert longest_of(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", "max_position_embeddings": 514}))
    assert longest_of(tmp_path) == 512
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    assert longest_of(tmp_path) == 256


def test_batches_hold_texts_of_about_one_length() -> None:
    lengths = [5, 900, 6, 700, 5, 3000]
    found = batches([[0] * length for length in lengths])
    assert found == [[5], [1, 3], [2, 0, 4]]
    assert [len(one) for one in batches([[0]] * 70)] == [32, 32, 6]
