"""Figures of OpenVINO and ONNX Runtime: those that were measured lie in the intervals, and the intervals are wide."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_onnx
from localfoundry import fit
from localfoundry.advice.measured import decode_of
from localfoundry.catalog.model import Architecture
from localfoundry.engines import other_fit
from localfoundry.engines.other_fit import OtherEstimate
from localfoundry.formats.onnx import read_onnx_folder
from localfoundry.results.evidence import Speed

STARTER = Architecture(30, 576, 1536, 9, 3, 64, 49152, True, False, False, 2048)
MEASURED = fit.Processor(40e9, 2, measured=True)
LOAD = fit.Load(context=2048)

# Of the starter model: engine, bytes of its weights, decode, prefill, load (docs/benchmarks.md; two days of OpenVINO).
RUNS = [
    ("openvino", 143_025_948, 82, 1_000, 1.9), ("openvino", 143_025_948, 118, 3_200, 1.9),
    ("onnx", 270_000_000, 95, 613, 1.0), ("onnx", 90_000_000, 165, 697, 1.0),
]  # fmt: skip
# Resident memory: engine, bytes of the weights, context, megabytes.
LOADS = [("openvino", 144_811_072, 8, 534), ("onnx", 90_000_000, 2048, 349), ("onnx", 270_000_000, 2048, 461)]


def estimate(engine: str, size_bytes: int | None, processor: fit.Processor = MEASURED) -> OtherEstimate:
    return OtherEstimate(engine, other_fit.of_architecture(STARTER, size_bytes, None), processor)


@pytest.mark.parametrize(("engine", "size_bytes", "decode", "prefill", "load_s"), RUNS)
def test_what_was_measured_lies_in_the_intervals(
    engine: str, size_bytes: int, decode: float, prefill: float, load_s: float
) -> None:
    found = estimate(engine, size_bytes)
    assert found.load_s().holds(load_s)
    assert found.decode(LOAD).holds(decode) and found.prefill(LOAD, 512).holds(prefill)
    assert found.decode(LOAD).value == pytest.approx(decode, rel=0.25)


@pytest.mark.parametrize(("engine", "size_bytes", "context", "megabytes"), LOADS)
def test_memory_is_the_engine_s_own_estimate(engine: str, size_bytes: int, context: int, megabytes: float) -> None:
    found = estimate(engine, size_bytes).memory(fit.Load(context=context))
    assert found.holds(megabytes * 1e6)


def test_intervals_say_that_little_was_measured() -> None:
    here, elsewhere = estimate("onnx", 10**8), estimate("onnx", 10**8, fit.Processor(40e9, 2))
    near, far = here.decode(LOAD), elsewhere.decode(LOAD)
    assert near.high / near.low > 6 and far.high / far.low > near.high / near.low
    assumed, known = estimate("onnx", None).memory(LOAD), here.memory(LOAD)
    assert assumed.high / assumed.low > known.high / known.low


def test_a_folder_tells_enough_for_memory_and_rates(tmp_path: Path) -> None:
    """Its configuration has no feed-forward network: parameters are taken to be those of a usual layer."""
    folder = tiny_onnx.write(tmp_path / "tiny")
    facts = other_fit.of_folder(read_onnx_folder(folder), 200_000)
    assert facts is not None
    assert (facts.layers, facts.head_dim, facts.vocabulary) == (2, 16, tiny_onnx.VOCABULARY)
    assert facts.kept == 2 * tiny_onnx.LAYERS * tiny_onnx.KV_HEADS * tiny_onnx.HEAD_DIM
    assert OtherEstimate("onnx", facts, MEASURED).prefill(LOAD, 512).value > 0


def speed(engine: str | None, itl_s: float, started_at: str) -> Speed:
    return Speed("chat", "en", "c=1", "itl_s", 8, itl_s, itl_s * 0.9, itl_s * 1.1, "measured here", "run", started_at,
                 "here", engine)  # fmt: skip


def test_a_rate_of_one_engine_is_never_told_for_another() -> None:
    speeds = [speed("llama.cpp (bundled)", 0.01, "2026-01-02"), speed("openvino", 0.02, "2026-01-01")]
    assert decode_of(speeds, "here", "openvino") is not None
    found = [decode_of(speeds, "here", engine) for engine in ("openvino", "llama.cpp", "onnx", None)]
    assert [one and round(one.value) for one in found] == [50, 100, None, 100]
