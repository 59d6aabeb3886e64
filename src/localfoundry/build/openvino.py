"""A GGUF file as an OpenVINO folder, made by OpenVINO in a process of its own (`workers/openvino_ir.py`)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from localfoundry.errors import MissingExtra, UsageError

_LIBRARY = "openvino_genai"
_LONGEST_WORDS = 400


def require() -> None:
    """Raise MissingExtra where the library is not installed."""
    if importlib.util.find_spec(_LIBRARY) is None:
        raise MissingExtra("an OpenVINO folder is made by OpenVINO", hint="pip install 'localfoundry[openvino]'")


def convert(file: Path, folder: Path) -> None:
    """Fill the empty `folder`. Blocking: seconds per 100 MB; memory of about twice the file.

    Raises MissingExtra, and UsageError in the library's words for a file that it makes nothing of.
    """
    require()
    command = [sys.executable, "-m", "localfoundry.workers.openvino_ir", "--model", str(file), "--out", str(folder)]
    # It ends when its standard input does, and so with this process.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        assert child.stderr is not None
        try:
            words = child.stderr.read()
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status != 0:
        said = [line for line in words.splitlines() if line.startswith("error: ")]
        reason = said[-1].removeprefix("error: ") if said else f"its process ended with {status}"
        raise UsageError(f"no OpenVINO folder can be made of it: {reason[:_LONGEST_WORDS]}")
