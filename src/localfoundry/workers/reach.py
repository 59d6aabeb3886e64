"""What an engine's library can compute on, as JSON on standard output: `[["GPU", "Intel Arc A770"], …]`.

A process of its own, because loading a library with its drivers takes a second, and a broken driver can end a process.
The processor is not listed: every engine computes on it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from localfoundry.workers import silence

_PROCESSOR = ("CPU", "Azure")  # the second one computes on somebody else's


def _openvino() -> list[tuple[str, str]]:
    silence.openvino()
    import openvino

    core = openvino.Core()
    found = [(str(device), str(core.get_property(device, "FULL_DEVICE_NAME"))) for device in core.available_devices]
    return [(device, name) for device, name in found if device not in _PROCESSOR]


def _onnx() -> list[tuple[str, str]]:
    import onnxruntime

    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return [(name, f"what {name} drives") for name in names if name not in _PROCESSOR]


_LIBRARIES: dict[str, Callable[[], list[tuple[str, str]]]] = {"openvino": _openvino, "onnx": _onnx}


def main() -> None:
    print(json.dumps(_LIBRARIES[sys.argv[1]]()))


if __name__ == "__main__":
    main()
