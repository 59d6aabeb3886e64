"""Two known tools' estimates of memory and decode, written from what they publish, for the tables in docs/fit.md.

llmfit: docs/how-it-works.md and the documentation of its model type (AlexsJones/llmfit, August 2026). whichllm:
docs/how-it-works.md and the docstrings of its estimate (Andyyyy64/whichllm, June 2026). Both estimate what a graphics
card or main memory must hold; neither takes parallel requests, so those are left out for them. On a processor both
take speed from the number of parameters alone; what llmfit does for a card whose bandwidth it knows is here as well.
"""

from __future__ import annotations

from localfoundry.fit.memory import Load
from localfoundry.formats.shape import ModelShape

# llmfit's table of bytes per parameter; a quantization that it lacks counts as 0.58.
_LLMFIT_BYTES = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 1.05, "Q6_K": 0.80, "Q4_0": 0.58}
_LLMFIT_CACHE = {"f16": 2.0, "q8_0": 1.0, "q4_0": 0.5}
_LLMFIT_OVERHEAD = 0.5e9
# Architectures whose windows whichllm takes into account, with the share of layers that see everything.
_WHICHLLM_GLOBAL = {"gemma2": 1 / 2, "gemma3": 1 / 6}

# Factors for quantizations on tokens per second; what is not named counts as 1, and as 0.45 of whichllm's.
_LLMFIT_SPEED = {"F16": 0.6, "Q8_0": 0.8, "Q6_K": 0.95, "Q4_K": 1.15, "Q4_0": 1.15, "Q3_K": 1.25, "Q2_K": 1.35}
_LLMFIT_X86 = 70.0
_LLMFIT_EFFICIENCY = 0.55
_WHICHLLM_SPEED = {"F16": 0.40, "Q6_K": 0.50, "Q5_K": 0.52, "Q5_0": 0.50, "Q4_K": 0.55, "Q4_0": 0.53, "Q3_K": 0.50,
                   "IQ4_NL": 0.50}  # fmt: skip
_WHICHLLM_USUAL = 0.45
_WHICHLLM_PROCESSOR = 18.0


def llmfit(shape: ModelShape, parameters: int, load: Load) -> float:
    """Bytes: parameters x bytes per parameter + 2 x layers x key-value heads x head size x context x bytes + 0.5 GB."""
    weights = parameters * _LLMFIT_BYTES.get(shape.quantization or "", 0.58)
    kept = 2 * shape.depth * shape.kv_heads * shape.head_dim * load.context * _LLMFIT_CACHE[load.cache_keys]
    return weights + kept + _LLMFIT_OVERHEAD


def whichllm(shape: ModelShape, parameters: int, load: Load) -> float:
    """Bytes: the file + 3.5 MiB per billion parameters and 1,024 tokens + activations + 0.5 GB for the framework.

    Activations: 400 MB + 0.08 bytes per parameter + 150 MB per 4,096 tokens. For a mixture of experts the active
    parameters count, four times for the cache. With a window, local layers count at most that many tokens.
    """
    active = shape.active_parameters if shape.experts else parameters
    share = _WHICHLLM_GLOBAL.get(shape.architecture, 1.0) if shape.window else 1.0
    seen = share * load.context + (1 - share) * min(load.context, shape.window or load.context)
    kept = active * (4 if shape.experts else 1) / 1e9 * seen / 1024 * 3.5 * 2**20
    activations = 400e6 + 0.08 * active + load.context / 4096 * 150e6
    return shape.weight_bytes + kept + activations + 500e6


def llmfit_decode(shape: ModelShape, kind: str) -> float:
    """Tokens/s on an x86 processor: 70 / billions of active parameters x the quantization's factor."""
    return _LLMFIT_X86 / (shape.active_parameters / 1e9) * _LLMFIT_SPEED.get(kind, 1.0)


def llmfit_roofline(shape: ModelShape, bandwidth: float) -> float:
    """Tokens/s where the bandwidth is known, as for a card: bytes a second over the model's size x 0.55."""
    return bandwidth / shape.active_bytes * _LLMFIT_EFFICIENCY


def whichllm_decode(shape: ModelShape, kind: str) -> float:
    """Tokens/s on a processor: 18 / billions of parameters, at least half a one, x the quantization's share / 0.45."""
    factor = _WHICHLLM_SPEED.get(kind, _WHICHLLM_USUAL) / _WHICHLLM_USUAL
    return max(0.3, _WHICHLLM_PROCESSOR / max(shape.active_parameters / 1e9, 0.5) * factor)
