"""Will it fit, and how fast will it be: pure arithmetic over a model's shape, and the only place that does it.

`memory` says what a load takes, `largest_context` how far the context can go, `decode`, `prefill` and `load_time` how
fast it will be. Each figure has an interval, and says whether it is predicted or was measured here. Devices, processes
and measuring are others' business: bandwidths and cores come in as plain numbers.
"""

from __future__ import annotations

from localfoundry.fit.context import DEFAULT_CONTEXT, SMALLEST_CONTEXT, ContextRow, largest_context, table
from localfoundry.fit.interval import Interval
from localfoundry.fit.memory import Load, Memory, Term, memory
from localfoundry.fit.processor import Processor
from localfoundry.fit.shape import of_catalog, of_file
from localfoundry.fit.speed import Speed, decode, load_time, prefill

__all__ = [
    "DEFAULT_CONTEXT", "SMALLEST_CONTEXT",
    "ContextRow", "Interval", "Load", "Memory", "Processor", "Speed", "Term", "decode", "largest_context", "load_time",
    "memory", "of_catalog", "of_file", "prefill", "table",
]  # fmt: skip
