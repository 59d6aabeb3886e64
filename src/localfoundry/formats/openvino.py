"""An OpenVINO folder, looked at within bounds: what its `config.json` says, and whether its graph embeds texts.

The graph is not parsed: the names of its tensors tell whether it gives logits or hidden states.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats.bounded_json import count, parse_object, text

GRAPH = "openvino_model.xml"
_CONFIG = "config.json"
_MOST_CONFIG_BYTES = 2**20
_MOST_GRAPH_BYTES = 256 * 2**20
_CHUNK = 2**20
_LONGEST_NAME = 4096
_NAMES = re.compile(rb'\snames="([^"]{1,%d})"' % _LONGEST_NAME)
_STATES = frozenset({b"last_hidden_state", b"token_embeddings"})
_LOGITS = b"logits"


class OpenVinoFolder(msgspec.Struct, frozen=True):
    """None: it does not say. `embeds`: it gives hidden states and no logits, so that it is for embeddings."""

    architecture: str | None = None
    context_length: int | None = None
    embeds: bool = False


def read_openvino_folder(folder: Path) -> OpenVinoFolder:
    """The folder's facts. Raises NotAModel (a damaged config.json), DiskError."""
    try:
        config = _config(folder)
    except OSError as exc:
        raise DiskError(f"cannot read {folder / _CONFIG}: {exc.strerror}") from exc
    try:
        architecture = text(config, "model_type")
        longest = count(config, "max_position_embeddings", _CONFIG)
    except NotAModel as exc:
        raise NotAModel(f"{folder.name}: {exc.message}", hint=exc.hint) from exc
    return OpenVinoFolder(architecture[:100] if architecture else None, longest or None, embeds(folder))


def embeds(folder: Path) -> bool:
    """Whether the graph gives a hidden state for each token and no logits. Raises DiskError."""
    states = False
    try:
        with (folder / GRAPH).open("rb") as file:
            before, read = b"", 0
            while read < _MOST_GRAPH_BYTES and (chunk := file.read(_CHUNK)):
                read += len(chunk)
                for names in _NAMES.findall(before + chunk):
                    found = set(names.split(b","))
                    if _LOGITS in found:
                        return False
                    states = states or bool(found & _STATES)
                before = chunk[-_LONGEST_NAME:]
    except OSError as exc:
        raise DiskError(f"cannot read {folder / GRAPH}: {exc.strerror}") from exc
    return states


def _config(folder: Path) -> dict[str, object]:
    try:
        with (folder / _CONFIG).open("rb") as file:
            data = file.read(_MOST_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    return parse_object(data, _CONFIG, _MOST_CONFIG_BYTES)
