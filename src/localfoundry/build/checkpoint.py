"""A model as its authors publish it: a Hugging Face folder, looked at within bounds before any compiler sees it.

What a compiler is then given is a folder of links to the files that were looked at, and no others: weights as
safetensors, configuration and tokenizer. Code of the repository and pickles, which run code when they are loaded, stay
behind; where they are all there is, the folder is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfoundry.errors import DiskError, NotAModel, NotCompilable
from localfoundry.formats.bounded_json import count, parse_object
from localfoundry.formats.safetensors import MAX_FILES, read_safetensors
from localfoundry.sources.choose import PICKLES, checkpoint_files
from localfoundry.sources.names import relative_name

_MAX_CONFIG_BYTES = 2**20
_MAX_INDEX_BYTES = 32 * 2**20
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("spiece.model",))
_READ_BYTES = 2**20
_SAFE = "take a repository with safetensors; foundry model search finds them"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the folder says. `parameters` as stored; `weight_bytes` of its tensors; `files` relative to the folder."""

    folder: Path
    files: tuple[str, ...]
    architecture: str
    model_type: str
    parameters: int
    weight_bytes: int
    layers: int | None
    context_length: int | None
    tied: bool
    quantized: str | None  # the method, where its weights are not plain numbers


def read(folder: Path) -> Checkpoint:
    """The facts of a folder. Blocking. Raises NotCompilable and NotAModel with the reason, DiskError."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as exc:
        raise DiskError(f"cannot read {folder}: {exc.strerror}") from exc
    files = checkpoint_files(names)
    weights = [name for name in files if name.endswith(".safetensors")]
    refuse_without_weights(folder.name, names)
    require_tokenizer(folder.name, files)
    config = _config(folder)
    if len(weights) > MAX_FILES:
        raise NotCompilable(f"{folder.name} has {len(weights)} files of weights, at most {MAX_FILES} are accepted")
    _check_index(folder, weights)
    headers = [read_safetensors(folder / relative_name(name)) for name in weights]
    return Checkpoint(
        folder=folder,
        files=files,
        architecture=architecture_of(config, folder.name),
        model_type=str(config.get("model_type"))[:100],
        parameters=sum(header.parameters for header in headers),
        weight_bytes=sum(header.data_bytes for header in headers),
        layers=count(config, "num_hidden_layers", "config.json"),
        context_length=count(config, "max_position_embeddings", "config.json"),
        tied=config.get("tie_word_embeddings") is True,
        quantized=method_of(config),
    )


def refuse_without_weights(name: str, names: Iterable[str]) -> None:
    """Raise NotCompilable for a repository or folder that has no safetensors, with what it has in their place."""
    everything = list(names)
    if any(n.endswith(".safetensors") for n in everything):
        return
    pickled = next((n for n in everything if n.lower().endswith(PICKLES)), None)
    if pickled is not None:
        raise NotCompilable(
            f"{name} has its weights as pickle only ({pickled}), which runs code when it is loaded; refused", hint=_SAFE
        )
    raise NotCompilable(f"{name} has no weights as safetensors", hint=_SAFE)


def parse_config(data: bytes) -> dict[str, Any]:
    """A `config.json` as an object. Raises NotAModel."""
    return parse_object(data, "config.json", _MAX_CONFIG_BYTES)


def architecture_of(config: dict[str, Any], name: str) -> str:
    """The class that the model is of. Raises NotCompilable where `config.json` does not say."""
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str) or len(named[0]) > 100:
        raise NotCompilable(f"the config.json of {name} does not say what the model is (architectures)", hint=_SAFE)
    return named[0]


def _config(folder: Path) -> dict[str, Any]:
    try:
        with (folder / "config.json").open("rb") as file:
            return parse_config(file.read(_MAX_CONFIG_BYTES + 1))
    except FileNotFoundError:
        raise NotCompilable(f"{folder.name} has no config.json, which says what the model is") from None
    except OSError as exc:
        raise DiskError(f"cannot read {folder / 'config.json'}: {exc.strerror}") from exc


def require_tokenizer(name: str, files: Iterable[str]) -> None:
    """Raise NotCompilable where none of the forms of a tokenizer is there."""
    there = set(files)
    if not any(there.issuperset(needed) for needed in _TOKENIZERS):
        raise NotCompilable(
            f"{name} has no tokenizer: none of tokenizer.json, tokenizer.model, vocab.json with merges.txt",
            hint="put the tokenizer's files beside the weights; they are in the repository that the model came from",
        )


def _check_index(folder: Path, weights: list[str]) -> None:
    """Every file that the index names must be there: a missing one would be found after minutes."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    with path.open("rb") as file:
        document = parse_object(file.read(_MAX_INDEX_BYTES + 1), path.name, _MAX_INDEX_BYTES)
    named = document.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(value, str) for value in named.values()):
        raise NotAModel(f"{path.name} is damaged: it does not say which file each tensor is in")
    missing = sorted(set(named.values()) - set(weights))
    if missing:
        raise NotCompilable(
            f"{folder.name} lacks {relative_name(missing[0])}" + (f" and {len(missing) - 1} more" * (len(missing) > 1)),
            hint="download it again",
        )


def method_of(config: dict[str, Any]) -> str | None:
    """How the weights are quantized already; None: they are plain numbers."""
    found = config.get("quantization_config")
    return str(found.get("quant_method"))[:40] if isinstance(found, dict) else None


def link_into(checkpoint: Checkpoint, target: Path) -> None:
    """Fill the empty `target` with the files that were looked at and no others: links to them, where there can be."""
    for name in checkpoint.files:
        source = (checkpoint.folder / name).resolve()
        try:
            (target / name).symlink_to(source)
        except OSError:  # Windows lets few make links
            from localfoundry.store.disk import link_or_copy

            link_or_copy(source, target / name)


def sums(checkpoint: Checkpoint, report: Callable[[int], None]) -> dict[str, str]:
    """SHA-256 of each file. Blocking: reads everything. `report` gets the bytes that are done."""
    found, done = {}, 0
    for name in checkpoint.files:
        digest = hashlib.sha256()
        try:
            with (checkpoint.folder / name).open("rb") as file:
                while data := file.read(_READ_BYTES):
                    digest.update(data)
                    done += len(data)
                    report(done)
        except OSError as exc:
            raise DiskError(f"cannot read {checkpoint.folder / name}: {exc.strerror}") from exc
        found[name] = digest.hexdigest()
    return found


def size_bytes(checkpoint: Checkpoint) -> int:
    """Of all files that count."""
    return sum(os.stat(checkpoint.folder / name).st_size for name in checkpoint.files)  # noqa: PTH116 - follows links
