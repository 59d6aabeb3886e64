"""Embeddings by OpenVINO: of a graph that gives the last hidden state of every token, one vector of each text.

The library's own `TextEmbeddingPipeline` takes texts only, cuts them where they are too long and does not count them.
So the graph is computed here: texts of about one length together, their states pooled as the folder says
(`1_Pooling/config.json`, as sentence-transformers writes it) or as a person chose, and vectors of length 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from localfoundry.workers.generation import Progress, Refused, Sampling, Unsupported, Vocabulary
from localfoundry.workers.openvino_tokens import Tokens

Pooling = Literal["mean", "cls", "last"]
_GRAPH = "openvino_model.xml"
_STATES = ("last_hidden_state", "token_embeddings")  # the graph's output, as optimum and sentence-transformers name it
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
}  # fmt: skip
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_ROBERTA_LIKE = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})  # positions begin behind the padding token


class Embedder:
    """A backend (`generation.Backend`) that embeds and generates nothing."""

    name = "openvino"
    parallel = 1
    options: frozenset[str] = frozenset()
    template: str | None = None
    busy: bool = False

    def __init__(self, folder: Path, context: int, device: str, properties: dict[str, Any]) -> None:
        """`properties` are the plugin's; `pooling` is ours. Raises Unsupported, RuntimeError in the library's words."""
        import numpy
        import openvino
        import openvino_genai

        self._numpy = numpy
        properties = dict(properties)
        self.pooling = pooling_of(folder, properties.pop("pooling", None))
        graph = openvino.Core().read_model(folder / _GRAPH)
        self._output = _named(graph.outputs, _STATES)
        self._inputs = {next(iter(one.names)) for one in graph.inputs}
        strange = self._inputs - {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
        if strange:
            raise Unsupported(f"the graph wants {', '.join(sorted(strange))}, which an embedding model has no need of")
        self._compiled = openvino.Core().compile_model(graph, device, properties)
        tokenizer = openvino_genai.Tokenizer(str(folder))
        self.context = min(context, longest_of(folder) or context)
        self._tokens = Tokens(tokenizer, self.context)
        self.vocabulary = Vocabulary([b""] * _entries(folder, tokenizer), frozenset())
        self._weights = (folder / _GRAPH).with_suffix(".bin").stat().st_size
        self.embed([[0]])  # kernels are made while the model loads

    def encode(self, text: str, special: bool) -> list[int]:
        return self._tokens.encode(text, special)

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector of length 1 for each; all of them are computed together."""
        np = self._numpy
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
            mask[row, : len(prompt)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids),
                 "position_ids": np.broadcast_to(np.arange(longest), ids.shape)}  # fmt: skip
        states = self._compiled({name: given[name] for name in self._inputs})[self._output]
        vectors = self._pooled(np.asarray(states, np.float32), mask)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return [[float(value) for value in row] for row in vectors / np.maximum(norms, 1e-12)]

    def _pooled(self, states: Any, mask: Any) -> Any:
        np = self._numpy
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            return states[np.arange(len(states)), mask.sum(1) - 1]
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)

    def account(self) -> dict[str, int]:
        return {"weights": self._weights}

    # Generating: none of it.

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        raise Refused("this model makes embeddings and no text: POST /v1/embeddings")

    def cancel(self, request: int) -> None:
        """Nothing was ever started."""

    def step(self) -> Sequence[Progress]:
        return ()


def pooling_of(folder: Path, chosen: str | None) -> Pooling:
    """How the states of a text become one vector. Raises Unsupported where nothing says it, or it cannot be done."""
    dense = [part for part in _modules(folder) if part.rpartition(".")[2] not in _KNOWN_MODULES]
    if dense:
        raise Unsupported(f"behind its pooling the model has {', '.join(dense)[:100]}, which is not computed here")
    said = [pooling for key, pooling in _POOLINGS.items() if _read(folder / "1_Pooling" / "config.json").get(key)]
    for pooling in _POOLINGS.values():
        if chosen == pooling:
            return pooling
    if len(said) != 1:
        why = f"names {len(said)} ways" if said else "does not say how (1_Pooling/config.json)"
        how = "set its engine to openvino and its engineArguments to --pooling mean, cls or last"
        raise Unsupported(f"the folder {why} to make one vector of a text's tokens: {how}")
    return said[0]


def longest_of(folder: Path) -> int | None:
    """The most tokens of one text; None: no file says it."""
    config = _read(folder / "config.json")
    places = config.get("max_position_embeddings")
    if isinstance(places, int) and config.get("model_type") in _ROBERTA_LIKE:
        places -= 2
    wanted = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    known = [one for one in (places, wanted) if isinstance(one, int) and one > 0]
    return min(known, default=None)


def _entries(folder: Path, tokenizer: Any) -> int:
    """How many tokens there are. The library knows it by the detokenizer, which a model that embeds need not have."""
    said = _read(folder / "config.json").get("vocab_size")
    if isinstance(said, int):
        return said
    try:
        return max(tokenizer.get_vocab().values(), default=-1) + 1
    except RuntimeError:
        raise Unsupported("config.json does not say how many tokens there are (vocab_size)") from None


def _named(outputs: Sequence[Any], names: Sequence[str]) -> Any:
    for output in outputs:
        if output.names & set(names):
            return output.index
    raise Unsupported(f"the graph has no output {' or '.join(names)}")


def _modules(folder: Path) -> list[str]:
    """The parts of a sentence-transformers model, by their class."""
    try:
        found = json.loads((folder / "modules.json").read_bytes())
        return [str(part["type"]) for part in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise Unsupported(f"modules.json cannot be read: {exc}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise Unsupported(f"{path.name} cannot be read: {exc}") from None
    return found if isinstance(found, dict) else {}
