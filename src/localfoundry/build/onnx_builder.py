"""The step that makes an ONNX folder: the model builder of ONNX Runtime GenAI, in a child, from a checked folder.

The same folder, options and versions give the same bytes (docs/compile.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from localfoundry.build import child
from localfoundry.build.stages import Stage
from localfoundry.build.targets import DEVICES, Target
from localfoundry.build.toolchain import Toolchain
from localfoundry.errors import BuildFailed, NotAModel, NotCompilable
from localfoundry.formats.onnx import read_onnx_folder

PACKAGES = ("torch", "transformers", "onnxruntime-genai", "onnx-ir")
_VERSIONED = (*PACKAGES, "onnx", "onnxruntime", "numpy")
_LAYER = re.compile(r"[Rr]eading decoder layer (\d+)")
# Through the starter (538 MB in float32: 1.78 to 2.08 GB); k-quants would take 2.7 GB.
_BASE_BYTES = 500_000_000
_MEMORY_PER_FLOAT_BYTE = 3.0

Report = Callable[[float], None]  # the share that is done


def require(tools: Toolchain, architecture: str) -> None:
    """Raise MissingExtra without the builder, and NotCompilable for what it has no code for."""
    tools.require(*PACKAGES)
    if architecture not in tools.architectures:
        raise NotCompilable(
            f"the ONNX builder (onnxruntime-genai {tools.packages['onnxruntime-genai']}) does not know {architecture}; "
            f"it knows {len(tools.architectures)} others",
            hint="--format gguf, whose converter knows more",
        )


def memory_bytes(parameters: int) -> int:
    """About what the builder takes at its peak; weights are in float32 then, whatever the result is in."""
    return int(_BASE_BYTES + _MEMORY_PER_FLOAT_BYTE * 4 * parameters)


def stage(tools: Toolchain, layers: int | None, target: Target, log: Path, report: Report) -> Stage:
    """The step, from a folder with the files of a checkpoint."""

    def told(text: str) -> None:
        found = _LAYER.search(text)
        if found and layers:
            report(min((int(found[1]) + 1) / layers, 1.0))

    def make(before: Path, folder: Path) -> child.Ended:
        private = folder.with_name(f"{folder.name}.tmp")
        private.mkdir(exist_ok=True)
        words = ["--input", str(before), "--output", str(folder), "--precision", target.precision]
        words += ["--execution_provider", DEVICES[target.device], "--cache_dir", str(private / "cache")]
        options = [f"{key}={value}" for key, value in target.options.items()]
        words += ["--extra_options", "hf_token=false", *options]
        command = tools.module("onnxruntime_genai.models.builder", *words)
        try:
            took = child.run(command, log, "the ONNX builder", told, private=private)
        finally:
            child.discard(private)
        _check(folder)
        return took

    chosen = target.options | {"precision": target.precision, "device": target.device}
    return Stage("onnx", f"ONNX {target.precision} for {target.device}", chosen, tools.versions(*_VERSIONED), make)


def _check(folder: Path) -> None:
    """What came out must be a folder that an engine is given."""
    try:
        read_onnx_folder(folder)
    except NotAModel as exc:
        raise BuildFailed(f"the ONNX builder ended well and left no model: {exc.message}") from exc
