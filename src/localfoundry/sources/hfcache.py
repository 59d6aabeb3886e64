"""Models in Hugging Face's cache: `models--ORG--REPO/{refs,blobs,snapshots/COMMIT}`, files being links to blobs.

A blob of a large file is named by its SHA-256, which is a promise that adopting checks; the others are named by a git
sum and promise nothing. Only the snapshot that `main` names is offered, else the newest: older ones are mostly the
same blobs. Names are those a download of the same repository would have, so `foundry run ORG/REPO` finds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from localfoundry.errors import NotAModel
from localfoundry.sources.choose import model_stem
from localfoundry.sources.found import Found, FoundModel, children, choices, collect, files_below, planned
from localfoundry.sources.names import as_variant_name
from localfoundry.sources.plan import PullPlan

_REPO = re.compile(r"models--(?:(\w[\w.-]*?)--)?(\w[\w.-]*)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LICENSE = re.compile(r"^license:\s*([\w.+-]{1,60})\s*$", re.MULTILINE)
_CARD_BYTES = 8192


def location(environ: Mapping[str, str]) -> Path:
    """The cache of this user: HF_HUB_CACHE, HF_HOME/hub, or the default below XDG_CACHE_HOME or ~/.cache."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    home = environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def scan(root: Path) -> Found:
    """Every model of the cache at `root`; empty where there is none. Reads no model file."""
    folders = [p for p in children(root) if _REPO.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
    return collect((folder, lambda folder=folder: repository(folder)) for folder in folders)  # type: ignore[misc]


def repository(folder: Path) -> list[FoundModel]:
    """The models in one `models--ORG--REPO`. Raises NotAModel for links that leave it, and as `choices`."""
    match = _REPO.fullmatch(folder.name)
    if match is None:
        raise NotAModel(f"{folder.name} is not the folder of a repository in a Hugging Face cache")
    repo = "/".join(part for part in match.groups() if part)
    snapshot = _snapshot(folder)
    if snapshot is None:
        return []
    files = files_below(snapshot, folder)
    sums = {name: path.name for name, path in files.items() if _SHA256.fullmatch(path.name)}
    declared = _license(files)
    found = []
    for choice in choices(repo, files):
        stem = model_stem(choice.paths[0]) if choice.format == "gguf" else f"{match[2]}-{choice.base}".rstrip("-")
        main = {"gguf": choice.paths[0], "onnx": f"{choice.base}/genai_config.json".lstrip("/")}
        pinned = main.get(choice.format, "config.json")
        plan = PullPlan(
            name=as_variant_name(stem),
            version=None,
            alias=as_variant_name(match[2]).lower(),
            source=f"hf:{repo}@{snapshot.name}:{pinned}",
            format=choice.format,
            files=planned(choice, files, sums),
            commit=snapshot.name,
            license=declared,
            quantization=choice.quantization,
        )
        found.append(FoundModel("huggingface", plan))
    return found


def _snapshot(folder: Path) -> Path | None:
    snapshots = [p for p in children(folder / "snapshots") if _COMMIT.fullmatch(p.name) and not p.is_symlink()]
    try:
        with (folder / "refs" / "main").open("rb") as ref:
            wanted = ref.read(100).decode("ascii", "replace").strip()
    except OSError:
        wanted = ""
    named = [p for p in snapshots if p.name == wanted]
    return named[0] if named else max(snapshots, key=lambda p: p.stat().st_mtime_ns, default=None)


def _license(files: Mapping[str, Path]) -> str | None:
    """As the model card declares it in its head."""
    if "README.md" not in files:
        return None
    with files["README.md"].open("rb") as card:
        head = card.read(_CARD_BYTES).decode("utf-8", "replace")
    match = _LICENSE.search(head) if head.startswith("---") else None
    return match[1] if match else None
