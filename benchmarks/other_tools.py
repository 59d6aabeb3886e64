"""Two known tools' estimates of memory, written from what they publish, for the table in docs/fit.md.

llmfit: docs/how-it-works.md and the documentation of its model type (AlexsJones/llmfit, August 2026). whichllm:
docs/how-it-works.md and the docstrings of its estimate (Andyyyy64/whichllm, June 2026). Both estimate what a graphics
card or main memory must hold; neither takes parallel requests, so those are left out for them.
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
