"""Models in LM Studio's folder: `PUBLISHER/REPO/*.gguf`, without sums; GGUF, and MLX as safetensors."""

from __future__ import annotations

from pathlib import Path

from localfoundry.sources.choose import model_stem
from localfoundry.sources.found import Found, FoundModel, children, choices, collect, files_below, planned
from localfoundry.sources.names import as_variant_name, relative_name
from localfoundry.sources.plan import PullPlan


def locations(home: Path) -> list[Path]:
    """Where LM Studio may keep models: the home that its pointer file names, ~/.lmstudio, the older ~/.cache."""
    found = []
    try:
        with (home / ".lmstudio-home-pointer").open("rb") as pointer:
            named = pointer.read(4096).decode("utf-8").strip()
        if named and "\0" not in named and Path(named).is_absolute():
            found.append(Path(named) / "models")
    except (OSError, UnicodeDecodeError):
        pass
    return list(dict.fromkeys([*found, home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]))


def scan(root: Path) -> Found:
    """Every model below `root`; empty where there is none. Reads no model file."""
    publishers = [p for p in children(root) if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")]
    folders = [r for p in publishers for r in children(p) if r.is_dir() and not r.is_symlink()]
    return collect((folder, lambda folder=folder: _folder(folder, root)) for folder in folders)  # type: ignore[misc]


def _folder(folder: Path, root: Path) -> list[FoundModel]:
    files = files_below(folder, root)
    label = relative_name(f"{folder.parent.name}/{folder.name}")
    found = []
    for choice in choices(label, files):
        stem = model_stem(choice.paths[0]) if choice.format == "gguf" else f"{folder.name}-{choice.base}".rstrip("-")
        plan = PullPlan(
            name=as_variant_name(stem),
            version=None,
            alias=as_variant_name(folder.name).lower(),
            source=f"lmstudio:{label}/{choice.paths[0]}",
            format=choice.format,
            files=planned(choice, files, {}),
            quantization=choice.quantization,
        )
        found.append(FoundModel("lmstudio", plan))
    return found
