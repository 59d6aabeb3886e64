"""A decoder's graph in ONNX Runtime on the processor: tokens in, the last token's logits out, keys and values in place.

Why not `onnxruntime_genai.Engine`: on the processor that batches four requests at most, none joins a batch that runs,
and its paged attention exists on GPUs only. The model builder's graphs (GroupQueryAttention over a shared buffer) take
rows of different lengths, so batches are made here and in `onnx_batch.py`, over the same files.

The graph computes logits for every token of a prompt; nobody reads any but the last, and they are a quarter of the work
where the vocabulary is large. So the last position is picked before the head, in memory: the same numbers for less.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from localfoundry.workers import silence
from localfoundry.workers.generation import Unsupported
from localfoundry.workers.onnx_folder import Folder
from localfoundry.workers.onnx_rows import Rows

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16), "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8), "tensor(int64)": np.dtype(np.int64), "tensor(int32)": np.dtype(np.int32),
}  # fmt: skip
_HEADS = ("MatMul", "MatMulNBits", "Gemm")
_AFTER_HEAD = ("Cast", "Mul", "Div", "Tanh", "Add")  # what may stand between the head and the logits


class Graph:
    """Raises Unsupported for a graph that is not an ordinary decoder. `threads` 0: one for each core."""

    def __init__(self, folder: Folder, rows: int, context: int, threads: int) -> None:
        import onnxruntime

        silence.onnxruntime(onnxruntime)
        self._runtime = onnxruntime
        data, picked = _picking_last(folder.graph(), context)
        self._session = onnxruntime.InferenceSession(
            data, self._options(folder.path, threads), providers=["CPUExecutionProvider"]
        )
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        self._names = _names(folder)
        layers = [_layer(self._names, number, inputs, outputs) for number in range(_layers(folder))]
        self._caches = [(past, present) for layer in layers for past, present in layer]
        self._check(inputs, outputs)
        self._integer = {name: _TYPES[one.type] for name, one in inputs.items() if one.type.startswith("tensor(int")}
        logits = outputs[self._names["logits"]]
        self.vocabulary: int = _size(folder, logits.shape)
        # The same memory for every batch's logits: new pages for them cost a fifth of a step.
        self._logits = np.zeros((rows, 1, logits.shape[-1]), _TYPES[logits.type]) if picked else None
        self.rows = Rows([_cache_shape(folder.decoder, inputs[past]) for past, _ in self._caches], rows, context)
        self._bindings: dict[tuple[int, int], Any] = {}

    def _options(self, folder: Path, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        # Said in number, threads may run on any core; left to the library, each is bound to one, whoever else is there.
        options.intra_op_num_threads = threads or _cores()
        options.log_severity_level = 3
        # Threads sleep while they wait for each other. Spinning, as is the default, costs more than twice the time as
        # soon as anything else computes on the same cores: the service does, and often another model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        return options

    def _check(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        known = {self._names[key] for key in ("input_ids", "attention_mask", "position_ids")}
        strange = inputs.keys() - known - {past for past, _ in self._caches}
        if strange:
            raise Unsupported(f"the graph takes {', '.join(sorted(strange)[:3])}, which this worker cannot give it")
        for name in (self._names["input_ids"], self._names["attention_mask"]):
            if name not in inputs:
                raise Unsupported(f"the graph does not take {name}")
        if self._names["logits"] not in outputs:
            raise Unsupported("the graph gives no logits")

    def prefill(self, row: int, tokens: Sequence[int], past: int) -> np.ndarray:
        """A part of one prompt, behind `past` tokens of its row: logits of its last token, one for each token."""
        ids = np.array([tokens], np.int64)
        return self._run(row, ids, [past + len(tokens)])[0, :]

    def decode(self, first: int, tokens: Sequence[int], totals: Sequence[int]) -> np.ndarray:
        """A token for each of neighbouring rows; `totals` are their lengths with it: logits, a row for each.

        They stand until the next call.
        """
        return self._run(first, np.array(tokens, np.int64)[:, None], totals)

    def _run(self, first: int, ids: np.ndarray, totals: Sequence[int]) -> np.ndarray:
        count, length = ids.shape
        ends = np.array(totals, np.int64)[:, None]
        given: dict[str, np.ndarray] = {
            self._names["input_ids"]: ids,
            self._names["attention_mask"]: np.arange(max(totals))[None, :] < ends,
            self._names["position_ids"]: ends - length + np.arange(length)[None, :],
        }
        binding = self._binding(first, count)
        for name, kind in self._integer.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(given[name], kind))
        if self._logits is None:
            binding.bind_output(self._names["logits"])
        self._session.run_with_iobinding(binding)
        logits = binding.get_outputs()[-1].numpy() if self._logits is None else self._logits[:count]
        return np.asarray(logits[:, -1, : self.vocabulary], np.float32)

    def _binding(self, first: int, count: int) -> Any:
        """Past and present of a layer are the same memory: attention adds to it in place."""
        found = self._bindings.get((first, count))
        if found is None:
            found = self._session.io_binding()
            for (past, present), tensor in zip(self._caches, self.rows.tensors, strict=True):
                value = self._runtime.OrtValue.ortvalue_from_numpy(tensor[first : first + count])
                found.bind_ortvalue_input(past, value)
                found.bind_ortvalue_output(present, value)
            if self._logits is not None:
                value = self._runtime.OrtValue.ortvalue_from_numpy(self._logits[:count])
                found.bind_ortvalue_output(self._names["logits"], value)
            self._bindings[first, count] = found
        return found


def _cores() -> int:
    """Cores that this process may use, two threads of one core counted once."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(min(psutil.cpu_count(logical=False) or allowed, allowed), 1)


def _names(folder: Folder) -> dict[str, str]:
    defaults = {
        "input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
        "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
    }  # fmt: skip
    named = {**folder.names("inputs"), **folder.names("outputs")}
    names = {key: named.get(key, default) for key, default in defaults.items()}
    if not all(isinstance(name, str) for name in names.values()):
        raise Unsupported("genai_config.json: an input or output of the graph is named by something that is no text")
    return names


def _layers(folder: Folder) -> int:
    layers = folder.decoder.get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise Unsupported("genai_config.json does not say how many layers the decoder has")
    return layers


def _layer(
    names: dict[str, str], number: int, inputs: dict[str, Any], outputs: dict[str, Any]
) -> list[tuple[str, str]]:
    """The names of a layer's past and present keys, and of its values."""
    found = []
    for kind in ("key", "value"):
        past = names[f"past_{kind}_names"].replace("%d", str(number))
        present = names[f"present_{kind}_names"].replace("%d", str(number))
        if past not in inputs or present not in outputs:
            raise Unsupported(f"the graph has no {past} or {present}: it is not a decoder with keys and values")
        found.append((past, present))
    return found


def _cache_shape(decoder: dict[str, Any], given: Any) -> tuple[int, int, np.dtype]:
    heads, dim = given.shape[1], given.shape[3]
    heads = heads if isinstance(heads, int) else decoder.get("num_key_value_heads")
    dim = dim if isinstance(dim, int) else decoder.get("head_size")
    if not isinstance(heads, int) or not isinstance(dim, int) or given.type not in _TYPES:
        raise Unsupported(f"the shape of {given.name} is not known, or its type: {given.type}")
    return heads, dim, _TYPES[given.type]


def _size(folder: Folder, shape: Sequence[Any]) -> int:
    stated = folder.model.get("vocab_size")
    size = shape[-1] if isinstance(shape[-1], int) else stated
    if not isinstance(size, int):
        raise Unsupported("genai_config.json does not say how large the vocabulary is")
    return min(size, stated) if isinstance(stated, int) else size


def _picking_last(path: Path, context: int) -> tuple[bytes, bool]:
    """The graph with the last position picked before the head; as it is, and False, where that is not recognised."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:
        raise Unsupported(f"{path.name} is not a graph: {exc}") from exc
    graph = model.graph
    _check_rows(graph, context)
    made_by = {output: node for node in graph.node for output in node.output}
    constants = {one.name for one in graph.initializer} | {
        output for node in graph.node if node.op_type == "Constant" for output in node.output
    }
    node = made_by.get("logits")
    while node is not None and node.op_type in _AFTER_HEAD:
        variable = [name for name in node.input if name and name not in constants]
        node = made_by.get(variable[0]) if len(variable) == 1 else None
    if node is None or node.op_type not in _HEADS:
        return bytes(model.SerializeToString()), False
    hidden = node.input[0]
    graph.initializer.append(onnx.helper.make_tensor("last_position", onnx.TensorProto.INT64, [1], [-1]))
    picked = onnx.helper.make_node("Gather", [hidden, "last_position"], ["last_hidden"], name="pick_last", axis=1)
    node.input[0] = "last_hidden"
    graph.node.insert(list(graph.node).index(node), picked)
    return bytes(model.SerializeToString()), True


def _check_rows(graph: Any, context: int) -> None:
    """Raises Unsupported where rows of different lengths cannot be computed together, each as it would be alone."""
    if not any(node.op_type == "GroupQueryAttention" for node in graph.node):
        raise Unsupported(
            "the graph has no GroupQueryAttention, whose rows can have different lengths; made for another device?"
        )
    for branch in (node for node in graph.node if node.op_type == "If"):
        most = _same_cache_until(graph, branch)
        if context > most:
            raise Unsupported(
                f"the graph changes its rotary cache behind {most} tokens, for all rows at once: a context of at most"
                f" {most} tokens can be had, not {context}"
            )


def _same_cache_until(graph: Any, branch: Any) -> int:
    """The length behind which a branch goes the other way; 0 where it does not ask for a length."""
    import onnx

    asked = next((node for node in graph.node if branch.input[0] in node.output), None)
    if asked is None or asked.op_type != "Greater":
        return 0
    values = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = node.attribute[0].t
    limit = values.get(asked.input[1])
    return int(onnx.numpy_helper.to_array(limit).item()) if limit is not None else 0
