"""A GGUF file as an OpenVINO model folder: the same numbers, in a form that the processor's kernels read faster.

`openvino_genai` builds the graph of a GGUF file. This process takes that graph and rewrites it, without changing what
it computes:

- 8-bit weights without a zero point. The library stores the signed bytes of Q8_0 as unsigned ones with the zero point
  128, and every kernel subtracts it again for every weight of every token.
- one multiplication where several have the same input: queries, keys and values; gate and up. A token of a small model
  is 211 multiplications then, of which most take longer to hand out to the threads than to compute, and now 121.

Decode of the starter model becomes 1.1 to 1.2 times as fast. Its load takes 2 s of processor time and not 5: most of
the rest is the library's reading of a vocabulary from GGUF, and the folder has the tokenizer as a graph as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfoundry.workers import lifeline, limits, silence

_GRAPH = "openvino_model.xml"
_TOKENIZERS = "openvino_*tokenizer.*"
_ZERO_POINT = 128
_NO_DEVICE = "NONE"  # the library writes the graph before it looks for the device, and so compiles nothing


def main() -> None:
    lifeline.die_with_parent()
    lifeline.exit_when_stdin_closes()
    limits.apply()
    parser = argparse.ArgumentParser(prog="localfoundry.workers.openvino_ir")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file with its matrices in Q8_0 or F16")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    options = parser.parse_args()
    silence.openvino()
    try:
        graph = graph_of(options.model, options.out)
    except Exception as exc:  # the top of a process: the bindings raise what they like
        print(f"error: the library makes no graph of this file: {_last_line(exc)}", file=sys.stderr, flush=True)
        raise SystemExit(1) from exc
    import openvino

    signed = without_zero_points(graph)
    joined = with_joined_inputs(graph)
    openvino.save_model(graph, options.out / _GRAPH, compress_to_fp16=False)
    print(f"signed={signed} joined={joined}", flush=True)


def graph_of(model: Path, out: Path) -> Any:
    """The graph that the library makes of the file; those of its tokenizer go to `out`.

    Raises what the library raises where it makes none.
    """
    import openvino
    import openvino_genai

    working = out / "working"
    working.mkdir()
    link = working / "model.gguf"  # the library writes beside the file that it reads
    try:
        os.link(model, link)
    except OSError:  # another file system, or one without links
        shutil.copyfile(model, link)
    tokenizer = openvino_genai.Tokenizer(str(link), enable_save_ov_model=True)
    scheduler = openvino_genai.SchedulerConfig()
    try:
        openvino_genai.ContinuousBatchingPipeline(
            str(link), tokenizer, scheduler, _NO_DEVICE, enable_save_ov_model=True
        )
    except RuntimeError:  # of the device
        if not (working / _GRAPH).exists():
            raise
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # what is read is written anew, and the source removed
    graph = core.read_model(working / _GRAPH)
    for file in working.glob(_TOKENIZERS):
        file.rename(out / file.name)
    shutil.rmtree(working)
    return graph


def without_zero_points(graph: Any) -> int:
    """Rewrite 8-bit weights `(u8 - 128) * scale` as `i8 * scale`; returns how many."""
    import numpy
    from openvino import Type
    from openvino import opset13 as ops

    rewritten = 0
    for node in list(graph.get_ops()):
        weights = _unsigned_weights(node)
        if weights is None:
            continue
        signed = (weights.astype(numpy.int16) - _ZERO_POINT).astype(numpy.int8)
        kind: Type = node.get_output_element_type(0)
        _replace(node, ops.convert(ops.constant(signed), kind).output(0))
        rewritten += 1
    graph.validate_nodes_and_infer_types()
    return rewritten


def _unsigned_weights(node: Any) -> Any | None:
    """The bytes of a `Subtract(Convert(u8), Convert(u8 all 128))`; None: the node is something else."""
    if node.get_type_name() != "Subtract":
        return None
    constants = []
    for place in (0, 1):
        source = node.input_value(place).get_node()
        if source.get_type_name() == "Convert":
            source = source.input_value(0).get_node()
        if source.get_type_name() != "Constant" or source.get_element_type().get_type_name() != "u8":
            return None
        constants.append(source.get_data())
    weights, zero_points = constants
    return weights if (zero_points == _ZERO_POINT).all() else None


def with_joined_inputs(graph: Any) -> int:
    """Join multiplications with the same input and weights in groups of one size; returns how many come of it."""
    same: dict[tuple[str, int, tuple[int, ...]], list[_Multiplication]] = defaultdict(list)
    for node in graph.get_ordered_ops():
        found = _Multiplication.of(node)
        if found is not None:
            source = node.input_value(0)
            same[source.get_node().get_friendly_name(), source.get_index(), found.weights.shape[1:]].append(found)
    several = [parts for parts in same.values() if len(parts) > 1]
    for parts in several:
        _join(parts)
    graph.validate_nodes_and_infer_types()
    return len(several)


@dataclass(frozen=True)
class _Multiplication:
    """`x · (weights * scales)ᵀ`: weights i8, rows x groups x values; scales f16 or f32, rows x groups x 1."""

    node: Any
    weights: Any
    scales: Any

    @classmethod
    def of(cls, node: Any) -> _Multiplication | None:
        if node.get_type_name() != "MatMul" or node.get_attributes() != {"transpose_a": False, "transpose_b": True}:
            return None
        source = node.input_value(1).get_node()
        while source.get_type_name() in ("Convert", "Reshape"):
            source = source.input_value(0).get_node()
        if source.get_type_name() != "Multiply":
            return None
        converted, scales = source.input_value(0).get_node(), source.input_value(1).get_node()
        if converted.get_type_name() != "Convert" or scales.get_type_name() != "Constant":
            return None
        weights = converted.input_value(0).get_node()
        if weights.get_type_name() != "Constant" or weights.get_element_type().get_type_name() != "i8":
            return None
        return cls(node, weights.get_data(), scales.get_data())


def _join(parts: list[_Multiplication]) -> None:
    """One multiplication with the rows of all, whose result is split again."""
    import numpy
    from openvino import Type
    from openvino import opset13 as ops

    weights = numpy.concatenate([part.weights for part in parts])
    scales = numpy.concatenate([part.scales for part in parts])
    kind = {"float16": Type.f16, "float32": Type.f32}[str(scales.dtype)]
    matrix = ops.multiply(ops.convert(ops.constant(weights), kind), ops.constant(scales))
    rows = [len(part.weights) for part in parts]
    flat = numpy.array([sum(rows), weights.shape[1] * weights.shape[2]], dtype=numpy.int64)
    matrix = ops.reshape(matrix, ops.constant(flat), False)
    if kind != Type.f32:
        matrix = ops.convert(matrix, Type.f32)
    product = ops.matmul(parts[0].node.input_value(0), matrix, False, True)
    split = ops.variadic_split(product, ops.constant(numpy.int64(-1)), ops.constant(numpy.array(rows, numpy.int64)))
    for part, output in zip(parts, split.outputs(), strict=True):
        _replace(part.node, output)


def _replace(node: Any, output: Any) -> None:
    for user in list(node.output(0).get_target_inputs()):
        user.replace_source_output(output)


def _last_line(exc: Exception) -> str:
    return next((line.strip() for line in reversed(str(exc).splitlines()) if line.strip()), "it does not say why")


if __name__ == "__main__":
    main()
