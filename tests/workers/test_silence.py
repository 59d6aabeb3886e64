"""Engines' libraries are loaded without what they would report with."""

from __future__ import annotations

import subprocess
import sys

_LOADED = """
import sys
from localfoundry.workers import silence
silence.openvino()
import openvino, openvino_genai
print([name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module])
"""


def test_openvino_is_loaded_without_its_reporter() -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_a_reporter_to_be_kept_out() -> None:
    """When this fails, the library has changed: look what it sends now."""
    without = _LOADED.replace("silence.openvino()", "")
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=60, check=True)
    assert "openvino_telemetry" in done.stdout
