"""The steps that make a GGUF file: llama.cpp's converter, and its quantizer where the converter does not do it.

Both come with `foundry engine install llama.cpp --native`, which keeps the converter beside the programs it builds;
neither can be had as a package. The converter is Python that needs torch and transformers, and runs as a child.
"""

from __future__ import annotations

from pathlib import Path

from localfoundry.build import child, installed, llama_tools
from localfoundry.build.stages import Stage
from localfoundry.build.targets import CONVERTED, Target
from localfoundry.build.toolchain import Toolchain
from localfoundry.config import Settings
from localfoundry.errors import BuildFailed, DiskError, MissingExtra, NotAModel
from localfoundry.formats.gguf import read_gguf

PACKAGES = ("torch", "transformers", "gguf", "safetensors")
INSTALL = "foundry engine install llama.cpp --native"
CONVERTER = "convert_hf_to_gguf.py"
QUANTIZER = "llama-quantize"
_BASE_BYTES = 700_000_000


def find(settings: Settings, name: str) -> Path:
    """The converter of the newest build that is here, or the quantizer of one that can run here or is on the PATH.

    Raises MissingExtra with the command that installs one.
    """
    if name == CONVERTER:
        folders = [installed.folder(settings, build) for build in installed.builds(settings)]
        found = next((path for folder in folders for path in sorted(folder.glob(f"share/**/{name}"))), None)
    else:
        found = llama_tools.find(name, settings)
    if found is None:
        raise MissingExtra(f"{name} is part of llama.cpp, which is not installed from source here", hint=INSTALL)
    return found


def require(settings: Settings, tools: Toolchain, target: Target) -> None:
    """Raise MissingExtra where something that the steps need is not there."""
    tools.require(*PACKAGES)
    find(settings, CONVERTER)
    if target.precision not in CONVERTED:
        find(settings, QUANTIZER)


def memory_bytes(weight_bytes: int) -> int:
    """About what the converter takes: it maps weights and converts tensor by tensor."""
    return _BASE_BYTES + weight_bytes // 2


def stages(settings: Settings, tools: Toolchain, name: str, target: Target, log: Path) -> list[Stage]:
    """From a folder with the files of a checkpoint to one with a GGUF file."""
    if target.precision in CONVERTED:
        return [_convert(settings, tools, name, target.precision, log)]
    return [_convert(settings, tools, name, "F16", log), _quantize(settings, name, target.precision, log)]


def _convert(settings: Settings, tools: Toolchain, name: str, quant: str, log: Path) -> Stage:
    script = find(settings, CONVERTER)

    def make(before: Path, folder: Path) -> child.Ended:
        file, private = folder / f"{name}-{quant}.gguf", folder.with_name(f"{folder.name}.tmp")
        private.mkdir(exist_ok=True)
        command = tools.program(script, str(before), "--outfile", str(file), "--outtype", CONVERTED[quant])
        try:
            took = child.run(command, log, "llama.cpp's converter", _ignore, private=private)
        finally:
            child.discard(private)
        _check(file, "llama.cpp's converter")
        return took

    versions = tools.versions(*PACKAGES, "numpy") | {"converter": _version(script)}
    return Stage("gguf", f"GGUF {quant}", {"outtype": CONVERTED[quant]}, versions, make)


def _quantize(settings: Settings, name: str, quant: str, log: Path) -> Stage:
    program = find(settings, QUANTIZER)

    def make(before: Path, folder: Path) -> child.Ended:
        source, file = next(before.glob("*.gguf")), folder / f"{name}-{quant}.gguf"
        took = child.run([str(program), str(source), str(file), quant], log, QUANTIZER, _ignore, private=folder)
        _check(file, QUANTIZER)
        return took

    return Stage("quantize", f"GGUF {quant}", {"type": quant}, {QUANTIZER: _version(program)}, make)


def _version(path: Path) -> str:
    """The folder that an installed engine is in has its version and build as its name."""
    parts = path.parts
    at = next((n for n, part in enumerate(parts) if part == "llama.cpp" and parts[n - 1] == "engines"), None)
    return parts[at + 1] if at is not None else "unknown"


def _check(file: Path, tool: str) -> None:
    try:
        read_gguf(file)
    except (NotAModel, DiskError) as exc:
        raise BuildFailed(f"{tool} ended well and left no model: {exc.message}") from exc


def _ignore(_: str) -> None:
    pass
