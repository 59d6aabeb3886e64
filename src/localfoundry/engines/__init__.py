"""How to start a worker for a variant: which engines there are, and which of them run a model.

No engine library is imported here; only workers do that, each in a process of its own.
"""

from __future__ import annotations

from localfoundry.engines.base import Engine
from localfoundry.engines.fake import FakeEngine
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.engines.onnx import Onnx
from localfoundry.engines.openvino import OpenVino

__all__ = ["Engine", "engines", "runnable_formats"]


def engines() -> tuple[Engine, ...]:
    """Every engine this version knows, installed or not."""
    return (LlamaCpp(), OpenVino(), Onnx(), FakeEngine(), FakeEngine("fake2"))


def runnable_formats() -> frozenset[str]:
    """Formats that some engine here can run."""
    return frozenset(name for engine in engines() if engine.missing() is None for name in engine.formats)
