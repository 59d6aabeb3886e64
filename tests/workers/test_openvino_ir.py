"""Graphs rewritten for the processor: fewer, simpler operations that compute the same."""

from __future__ import annotations

import collections
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import Type
from openvino import opset13 as ops

from localfoundry.workers import openvino_ir

WIDTH, GROUP = 64, 32
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def quantized(rows: int, seed: int, zero_point: int = 128) -> Any:
    """Weights as the library reads them from Q8_0: unsigned bytes, a zero point, one scale for 32 values."""
    random = np.random.default_rng(seed)
    shape = (rows, WIDTH // GROUP, GROUP)
    values = ops.convert(ops.constant(random.integers(1, 256, shape).astype(np.uint8)), Type.f16)
    point = ops.convert(ops.constant(np.full((rows, WIDTH // GROUP, 1), zero_point, np.uint8)), Type.f16)
    scales = ops.constant(random.uniform(0.001, 0.01, (rows, WIDTH // GROUP, 1)).astype(np.float16))
    matrix = ops.multiply(ops.subtract(values, point), scales)
    flat = ops.reshape(matrix, ops.constant(np.array([rows, WIDTH], np.int64)), False)
    return ops.convert(flat, Type.f32)


def attention_like(zero_point: int = 128) -> openvino.Model:
    """Three multiplications of one input with rows of their own, and one of another input."""
    source = ops.parameter([-1, WIDTH], Type.f32, name="x")
    outputs = [ops.matmul(source, quantized(rows, rows, zero_point), False, True) for rows in (64, 16, 24)]
    outputs.append(ops.matmul(ops.relu(source), quantized(8, 5, zero_point), False, True))
    return openvino.Model([ops.result(output) for output in outputs], [source], "attention")


def computed(graph: openvino.Model, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    done = openvino.Core().compile_model(graph, "CPU", EXACT)({"x": x})
    return [np.array(done[number]) for number in range(len(done))]


def kinds(graph: openvino.Model) -> collections.Counter[str]:
    return collections.Counter(node.get_type_name() for node in graph.get_ops())


def test_what_is_computed_does_not_change() -> None:
    x = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)
    graph = attention_like()
    before = computed(graph, x)
    assert openvino_ir.without_zero_points(graph) == 4
    assert openvino_ir.with_joined_inputs(graph) == 1
    assert kinds(graph)["Subtract"] == 0
    assert kinds(graph)["MatMul"] == 2
    for old, new in zip(before, computed(graph, x), strict=True):
        assert new.shape == old.shape
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def test_weights_with_another_zero_point_are_left_as_they_are() -> None:
    """They are no signed bytes: to take 127 from them may leave a value that has no place in a byte."""
    graph = attention_like(zero_point=127)
    assert openvino_ir.without_zero_points(graph) == 0
    assert openvino_ir.with_joined_inputs(graph) == 0
    assert kinds(graph)["MatMul"] == 4


@pytest.mark.parametrize("text", [b"", b"GGUF", b"not a model"])
def test_a_file_that_is_no_model_is_told_and_leaves_no_graph(text: bytes, tmp_path: Path) -> None:
    model, out = tmp_path / "model.gguf", tmp_path / "out"
    model.write_bytes(text)
    out.mkdir()
    command = [sys.executable, "-m", "localfoundry.workers.openvino_ir", "--model", str(model), "--out", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        told = child.stderr.read()  # its standard input stays open: it ends with that
    assert child.returncode == 1
    assert told.startswith("error: the library makes no graph of this file: ")
    assert not list(out.glob("*.xml"))
