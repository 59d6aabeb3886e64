"""What kind of model a file or folder is, from its first bytes and its names.

Content is believed before the name, since engines go by content too. Formats that run code when they are loaded are
refused here, before anything else looks at them. That the file is whole and sound is for the format's own reader.
"""

from __future__ import annotations

import struct
from pathlib import Path

from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats.openvino import embeds

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_FIRST_BYTES = 4096
_OPENVINO_FILES = tuple(
    f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")
)
_DETOKENIZER = {name for name in _OPENVINO_FILES if "detokenizer" in name}  # what embeds texts writes none
_SAFE = "use the GGUF or safetensors form of this model; foundry model search finds them"
_OTHER_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was not fetched", "git lfs pull"),
    (b"<!doctype", "a web page", "download the file itself, not the page that shows it"),
    (b"<html", "a web page", "download the file itself, not the page that shows it"),
    (b"lmgg", "a GGML file, the form before GGUF", "convert it to GGUF"),
    (b"tjgg", "a GGJT file, the form before GGUF", "convert it to GGUF"),
    (b"fmgg", "a GGMF file, the form before GGUF", "convert it to GGUF"),
)


def identify(path: Path) -> str:
    """`gguf`, `onnx` (an ONNX Runtime GenAI folder), `openvino` (an OpenVINO IR folder), `safetensors` (file or
    folder) or `fake` (the test engine).

    safetensors is recognised so that a person can be told what to do with it; no engine here runs it as it is.
    Raises NotAModel for anything else, with the safe format named for a pickle, and DiskError where it cannot be read.
    """
    try:
        if path.is_dir():
            return _identify_folder(path)
        if not path.exists():
            raise NotAModel(f"there is nothing at {path}")
        if not path.is_file():
            raise NotAModel(f"{path} is not a regular file")
        with path.open("rb") as file:
            first = file.read(_FIRST_BYTES)
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    return _identify_file(path, first)


def _identify_file(path: Path, first: bytes) -> str:
    if first.startswith(b"GGUF"):
        return "gguf"
    if path.name.lower().endswith(".fake.json"):
        return "fake"
    if _is_pickle(path, first):
        raise NotAModel(
            f"{path.name} is a pickle file and is refused: loading one runs whatever code it holds", hint=_SAFE
        )
    if not first:
        raise NotAModel(f"{path.name} is empty")
    for beginning, what, hint in _OTHER_BEGINNINGS:
        if first.lower().startswith(beginning):
            raise NotAModel(f"{path.name} is {what}", hint=hint)
    if _is_safetensors(first, path):
        return "safetensors"
    raise NotAModel(
        f"{path.name} is not a model: neither GGUF nor safetensors, nor a folder of ONNX Runtime GenAI or OpenVINO",
        hint="foundry model download takes a .gguf file or a folder with genai_config.json or openvino_model.xml",
    )


def _identify_folder(folder: Path) -> str:
    names = sorted(entry.name.lower() for entry in folder.iterdir())
    if "genai_config.json" in names:
        return "onnx"
    here = [name for name in _OPENVINO_FILES if name in names]
    if any(name.endswith(".xml") for name in here):
        missing = [name for name in _OPENVINO_FILES if name not in names]
        if missing and not (set(missing) <= _DETOKENIZER and embeds(folder)):
            raise NotAModel(
                f"{folder.name} holds {here[0]} but no {' and no '.join(missing)}",
                hint="export it whole: optimum-cli export openvino writes the model with its tokenizer",
            )
        return "openvino"
    for suffix, name in ((".gguf", "gguf"), (".safetensors", "safetensors")):
        if any(n.endswith(suffix) for n in names):
            return name
    pickled = next((n for n in names if Path(n).suffix in _PICKLE_SUFFIXES), None)
    if pickled:
        raise NotAModel(
            f"{folder.name} holds pickle files ({pickled}) and is refused: loading one runs whatever code it holds",
            hint=_SAFE,
        )
    if any(n.endswith(".onnx") for n in names):
        raise NotAModel(
            f"{folder.name} holds ONNX files but no genai_config.json", hint="export it for ONNX Runtime GenAI"
        )
    raise NotAModel(
        f"{folder.name} holds no model: no .gguf, no genai_config.json, no openvino_model.xml, no .safetensors"
    )


def _is_pickle(path: Path, first: bytes) -> bool:
    """By name; by a pickle's first opcode (PROTO 2 to 5); or as the zip archive that PyTorch writes around one."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    if len(first) > 1 and first[0] == 0x80 and 2 <= first[1] <= 5:
        # A safetensors header of 0x0280 to 0x0580 bytes begins alike, but its ninth byte is always "{".
        return not _is_safetensors(first, path)
    return first.startswith(b"PK\x03\x04") and b"data.pkl" in first


def _is_safetensors(first: bytes, path: Path) -> bool:
    """Eight bytes of length, then a JSON object of that length within the file."""
    if len(first) < 9 or first[8:9] != b"{":
        return False
    length: int = struct.unpack_from("<Q", first)[0]
    return 2 <= length <= path.stat().st_size - 8
