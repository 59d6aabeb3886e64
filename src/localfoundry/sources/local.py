"""Models that are already on this machine as files: a GGUF, a folder of ONNX Runtime GenAI, a file of the test engine.

What a file is, is decided by its content. The files are copied into the store when the plan is carried out, never
linked (see `store/pull.py`), and the originals are not touched.
"""

from __future__ import annotations

from pathlib import Path

from localfoundry.errors import NotAModel, NotRunnable, UnknownModel
from localfoundry.sources.choose import choose, model_stem, quantization_of
from localfoundry.sources.names import as_variant_name, relative_name
from localfoundry.sources.plan import PlannedFile, PullPlan

_MAX_FILES = 2000


def plan(path: Path) -> PullPlan:
    """A plan that imports `path`. Blocking. Raises UnknownModel (nothing there), NotAModel, NotRunnable, DiskError."""
    from localfoundry.formats.detect import identify
    from localfoundry.formats.openvino import embeds

    if not path.exists():
        raise UnknownModel(f"there is nothing at {path}", param="model")
    kind = identify(path)
    if kind == "safetensors":
        raise NotRunnable(
            f"{path} holds safetensors, which no engine here runs",
            hint="take its GGUF form; foundry model search finds it",
        )
    base = path if path.is_dir() else path.parent
    names = _inside(path) if path.is_dir() else _with_parts(path)
    notes: tuple[str, ...] = ()
    if path.is_dir() and kind == "gguf":
        chosen = choose(str(path), names)
        names, notes = list(chosen.paths), chosen.notes
    stem = path.name if path.is_dir() else model_stem(names[0])
    files = tuple(
        PlannedFile(name=relative_name(name), local=base / name, size_bytes=(base / name).stat().st_size)
        for name in names
    )
    return PullPlan(
        name=as_variant_name(stem),
        version=None,
        alias=as_variant_name(stem).lower(),
        source=f"file:{path}",
        format=kind,
        files=files,
        quantization=quantization_of(names[0]) if kind == "gguf" else None,
        tasks=("embeddings",) if kind == "openvino" and embeds(base) else ("chat",),
        notes=notes,
    )


def _with_parts(path: Path) -> list[str]:
    """The file, and where it is one part of a split model, the other parts beside it."""
    siblings = [p.name for p in path.parent.iterdir() if p.suffix.lower() == ".gguf"]
    if path.suffix.lower() != ".gguf" or len(siblings) == 1:
        return [path.name]
    return list(choose(str(path.parent), siblings, path.name).paths)


def _inside(folder: Path) -> list[str]:
    """Files below the folder; links are followed to files, as the hub's own cache is made of such, not to folders."""
    names: list[str] = []
    for found in sorted(folder.rglob("*")):
        if found.is_file() and not any(part.startswith(".") for part in found.relative_to(folder).parts):
            names.append(found.relative_to(folder).as_posix())
        if len(names) > _MAX_FILES:
            raise NotAModel(f"{folder} holds more than {_MAX_FILES} files; name the folder of one model")
    return names
