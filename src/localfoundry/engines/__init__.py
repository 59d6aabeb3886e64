"""How to start a worker for a variant: which engine takes which format, and why that one was chosen.

No engine library is imported here; only workers do that, each in a process of its own.
"""

from __future__ import annotations

from localfoundry.engines.base import Engine
from localfoundry.engines.fake import FakeEngine
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import NotRunnable

__all__ = ["Engine", "choose", "engines", "runnable_formats"]


def engines() -> tuple[Engine, ...]:
    """Every engine this version knows, in the order in which they are tried."""
    return (LlamaCpp(), FakeEngine())


def runnable_formats() -> frozenset[str]:
    """Formats that some engine here can run."""
    return frozenset(name for engine in engines() for name in engine.formats)


def choose(model_format: str) -> Engine:
    """The engine for a format. Raises NotRunnable naming the formats that can be run."""
    for engine in engines():
        if model_format in engine.formats:
            return engine
    known = ", ".join(sorted(runnable_formats() - {"fake"}))
    raise NotRunnable(f"no engine here runs the format {model_format}; formats that run: {known}")
