"""Libraries that report on who uses them are kept from it: nothing leaves this machine that nobody asked to send.

OpenVINO's Python package imports a reporter of its own beside its converters. Where that cannot be imported, it takes a
stub in its place, and that is what it gets. ONNX Runtime has a switch.
"""

from __future__ import annotations

import sys
from typing import Any


def openvino() -> None:
    """Before the library is imported."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what makes an import of it fail


def onnxruntime(library: Any) -> None:
    """After the library is imported."""
    library.disable_telemetry_events()
