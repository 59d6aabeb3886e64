"""How OpenVINO's plugin for the processor computes: as is best for many requests at once, or for one conversation.

The plugin quantizes activations to 8 bits on the fly: a batch of several requests is faster by it. One request alone is
a multiplication of a matrix with a vector, which takes as long as reading and unpacking the weights; there quantizing
only adds to it. What was measured is in docs/engines.md; on a processor of another kind the plugin is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localfoundry.engines.base import LoadRequest

PRECISION, QUANTIZATION = "INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE"
_ONE_STREAM = {PRECISION: "bf16", QUANTIZATION: "0"}
_WORDS = {PRECISION: "bf16 arithmetic", QUANTIZATION: "activations not quantized"}
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Mode:
    """Properties of the plugin beside those that a person chose, and words for `--verbose`; empty where neither."""

    properties: dict[str, str] = field(default_factory=dict)
    words: str = ""


def mode_of(request: LoadRequest, chosen: Mapping[str, str]) -> Mode:
    """`chosen`: properties that a person set by `engineArguments`, which stay as they are."""
    if request.device != "CPU":
        return Mode()
    if "embeddings" in request.tasks:
        return Mode()
    if not request.one_stream:
        return Mode(words="as is best for many requests at once")
    why = "one request at a time" if request.parallel == 1 else "profile chat"
    if not _multiplies_bf16():
        return Mode(words=f"as for many requests at once, although for one ({why}): no other way was measured here")
    properties = {name: value for name, value in _ONE_STREAM.items() if name not in chosen}
    how = ", ".join(_WORDS[name] for name in properties) or "engineArguments say how"
    return Mode(properties, f"as is best for one stream ({why}): {how}")


def _multiplies_bf16() -> bool:
    """Whether vectors are multiplied in bf16. With tiles (AMX) too: no such processor was measured."""
    try:
        flags = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags and "amx_bf16" not in flags
