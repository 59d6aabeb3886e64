"""A few loads of the real engine, now: the estimate must hold for the engine that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from localfoundry.fit import Load, memory, of_file
from localfoundry.fit.memory import CHECKPOINTS
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fit_loads
import random_gguf
from fit_loads import Options
from gguf import GGMLQuantizationType

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(sys.platform == "win32", reason="the measured worker listens on a Unix socket"),
]
WORST = 0.10


@pytest.fixture
def starter_file(starter: Manifest, isolated: Path) -> Path:
    return Store(isolated / "foundry" / "models").main_file(starter)


def error(path: Path, options: Options) -> float:
    """Relative to what was measured; weights and cache are compared with the engine's own account on the way."""
    shape = of_file(path)
    assert shape is not None
    predicted = memory(shape, Load(options.context, options.parallel, options.cache, options.cache))
    window = shape.window if any(kind.windowed for kind in shape.layers) else 0
    measured = fit_loads.measure(path, options, window=window)
    if window:
        assert f"context checkpoints enabled, max = {CHECKPOINTS}," in measured.log, "as many as are counted"
    mapped = predicted["weights"] + predicted["rearranged"] + predicted["stale"]
    assert mapped == pytest.approx(measured.buffers["weights"], abs=40_000)
    assert predicted["kv_cache"] + predicted["state"] == pytest.approx(measured.buffers["kv_cache"], abs=40_000)
    return predicted.total / measured.resident - 1


@pytest.mark.parametrize(
    "options", [Options(512, 1), Options(8192, 8), Options(32768, 4, "q8_0"), Options(2048, 4, "q4_0")]
)
def test_the_starter_model_takes_what_is_predicted(starter_file: Path, options: Options) -> None:
    assert abs(error(starter_file, options)) < WORST


def test_windows_rearranged_weights_and_experts_take_what_is_predicted(starter_file: Path, tmp_path: Path) -> None:
    tokenizer = random_gguf.Tokenizer(starter_file)
    small = {"vocabulary": 49_152}  # and narrow layers where each sequence is filled beyond its window
    for shape, kind, options in (
        (random_gguf.GEMMA3.shortened(6).changed(ffn=2304), GGMLQuantizationType.Q8_0, Options(4096, 2)),
        (random_gguf.QWEN3.shortened(4), GGMLQuantizationType.Q4_K, Options(2048, 1, "q8_0")),
        (random_gguf.SMALL_MIXTURE.shortened(3), GGMLQuantizationType.Q8_0, Options(2048, 4)),
        (random_gguf.HYBRID.shortened(6), GGMLQuantizationType.Q6_K, Options(8192, 8)),
    ):
        path = tmp_path / "model.gguf"
        random_gguf.write(shape.changed(**small), kind, path, tokenizer)
        assert abs(error(path, options)) < WORST, shape.name
