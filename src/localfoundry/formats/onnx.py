"""A folder of ONNX Runtime GenAI, looked at within bounds: its `genai_config.json` and the files that names.

The graphs are not read: the configuration states the shape. What it may name are files in the folder. A library of
custom operators is native code of a stranger that would run at load, so a folder that names one is refused.

Source: onnxruntime-genai, src/config.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats.bounded_json import count, parse_object, part, text

CONFIG = "genai_config.json"
MAX_CONFIG_BYTES = 2**20
MAX_NAMED_FILES = 256

_FILE_KEYS = ("filename", "adapter_filename", "config_filename")


class OnnxFolder(msgspec.Struct, frozen=True):
    """What the configuration of an ONNX Runtime GenAI folder says. None: it does not say."""

    architecture: str
    files: tuple[str, ...]  # named by the configuration, each in the folder
    context_length: int | None = None
    layers: int | None = None
    hidden_size: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    eos_ids: tuple[int, ...] = ()


def read_onnx_folder(folder: Path) -> OnnxFolder:
    """The folder's facts. Raises NotAModel (damaged, a file is missing, a name leaves the folder), DiskError."""
    path = folder / CONFIG
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        found = read_config(data, lambda name: (folder / name).is_file())
    except FileNotFoundError as exc:
        raise NotAModel(f"{folder.name} has no {CONFIG}") from exc
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    except NotAModel as exc:
        raise NotAModel(f"{folder.name}: {exc.message}", hint=exc.hint) from exc
    return found


def read_config(data: bytes, exists: Callable[[str], bool]) -> OnnxFolder:
    """The facts in `data`; `exists` is asked for each file it names, only with names that stay in the folder."""
    document = parse_object(data, CONFIG, MAX_CONFIG_BYTES)
    model = part(document, "model")
    kind = text(model, "type")
    if kind is None:
        raise NotAModel(f"{CONFIG} does not say what model it is (model.type)")
    names: dict[str, None] = {}
    for key, value in _walk(document):
        if key == "custom_ops_library":
            raise NotAModel(f"{CONFIG} names a library of custom operators, which is code that runs at load; refused")
        if key in _FILE_KEYS and value:
            names[_inside(value)] = None
    if not names:
        raise NotAModel(f"{CONFIG} names no model file")
    if len(names) > MAX_NAMED_FILES:
        raise NotAModel(f"{CONFIG} names {len(names)} files, at most {MAX_NAMED_FILES} are accepted")
    for name in names:
        if not exists(name):
            raise NotAModel(f"{CONFIG} names {name!r}, which is not there", hint="download the folder again")
    decoder = part(model, "decoder")
    heads = count(decoder, "num_attention_heads", CONFIG)
    return OnnxFolder(
        architecture=kind[:100],
        files=tuple(names),
        context_length=count(model, "context_length", CONFIG),
        layers=count(decoder, "num_hidden_layers", CONFIG),
        hidden_size=count(decoder, "hidden_size", CONFIG),
        attention_heads=heads,
        kv_heads=count(decoder, "num_key_value_heads", CONFIG) or heads,
        head_dim=count(decoder, "head_size", CONFIG),
        vocab_size=count(model, "vocab_size", CONFIG),
        eos_ids=_ids(model.get("eos_token_id")),
    )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield from inner.items()
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


def _inside(name: Any) -> str:
    """`name`, where it is a relative path of plain parts. Stricter rules for names of our own are the sources'."""
    if not isinstance(name, str) or len(name) > 512:
        raise NotAModel(f"{CONFIG} names a file by something that is no file name")
    parts = name.split("/")
    if any(p in ("", ".", "..") for p in parts) or any(c in name for c in "\\:\0"):
        raise NotAModel(f"{CONFIG} names {name[:100]!r}, which leaves its folder; refused")
    return name


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(n for n in values[:64] if type(n) is int and n >= 0)
