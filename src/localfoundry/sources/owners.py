"""Where other tools keep models on this machine, and which of them a folder belongs to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from localfoundry.errors import FoundryError, UnknownModel
from localfoundry.sources import hfcache, lmstudio, local, ollama
from localfoundry.sources.choose import Choice
from localfoundry.sources.found import Found, FoundModel, choices, collect, files_below, planned
from localfoundry.sources.names import as_variant_name
from localfoundry.sources.plan import PullPlan

OWNERS = ("hf", "ollama", "lmstudio")


def scan_owner(owner: str, home: Path, environ: Mapping[str, str] = os.environ) -> Found:
    """Everything that one of `OWNERS` keeps. Reads no model file."""
    if owner == "hf":
        return hfcache.scan(hfcache.location(environ))
    if owner == "ollama":
        return ollama.scan(ollama.location(environ))
    return _joined([lmstudio.scan(root) for root in lmstudio.locations(home)])


def scan_path(path: Path) -> Found:
    """What a path holds: another tool's store, one repository of a Hugging Face cache, a model file or a model folder.

    Raises UnknownModel where nothing is there, and NotAModel. A link that the person names is followed.
    """
    if not path.exists():
        raise UnknownModel(f"there is nothing at {path}", hint="foundry import --list", param="model")
    if path.is_dir():
        if (path / "manifests").is_dir() and (path / "blobs").is_dir():
            return ollama.scan(path)
        if path.name.startswith("models--") and (path / "snapshots").is_dir():
            return collect([(path, lambda: hfcache.repository(path))])
        if any(child.name.startswith("models--") for child in path.iterdir()):
            return hfcache.scan(path)
    try:
        return Found(tuple(_plain(path)))
    except FoundryError:
        nested = lmstudio.scan(path) if path.is_dir() else Found()
        if not nested.models:
            raise
        return nested


def _plain(path: Path) -> list[FoundModel]:
    """A file, or the folder of one model."""
    from localfoundry.formats.detect import identify

    kind = identify(path)
    if kind != "safetensors":
        return [FoundModel("file", local.plan(path))]
    folder, root = (path, path.resolve()) if path.is_dir() else (path.parent, path.parent.resolve())
    files = files_below(folder, root) if path.is_dir() else {path.name: path.resolve()}
    chosen = next((c for c in choices(str(path), files)), Choice(tuple(files), "", kind))
    stem = as_variant_name(path.name if path.is_dir() else path.stem)
    plan = PullPlan(
        name=stem,
        version=None,
        alias=stem.lower(),
        source=f"file:{path}",
        format=kind,
        files=planned(chosen, files, {}),
    )
    return [FoundModel("file", plan)]


def _joined(founds: list[Found]) -> Found:
    return Found(tuple(m for f in founds for m in f.models), tuple(r for f in founds for r in f.refused))
