"""Models that another tool keeps on this disk, as values: what they would be called here, and why some are refused.

What the finders (`hfcache.py`, `ollama.py`, `lmstudio.py`) share. They only read; adopting is `store/adopt.py`. The
folders they read belong to others and may hold anything: links are followed only inside the folder that was named,
names are parsed, and a folder that cannot be understood is refused with its reason while the others are still found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from localfoundry.errors import FoundryError, NotAModel
from localfoundry.sources.choose import Choice, choose
from localfoundry.sources.names import relative_name
from localfoundry.sources.plan import PlannedFile, PullPlan

MAX_FILES = 2000  # of one model's folder; the largest repositories have a few hundred
_MAX_DEPTH = 8
_KEPT_BESIDE_SAFETENSORS = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")


class FoundModel(msgspec.Struct, frozen=True):
    """A model that could be adopted. `plan` names its files where they are; the rest is what its owner knew of it."""

    owner: str
    plan: PullPlan
    chat_template: str | None = None
    parameters: dict[str, float | int | bool | str | list[str]] = {}
    untranslated: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes or 0 for f in self.plan.files)


class Refused(msgspec.Struct, frozen=True):
    """Something that looked like a model and is left alone."""

    path: str
    reason: str


class Found(msgspec.Struct, frozen=True):
    """What a folder of another tool holds."""

    models: tuple[FoundModel, ...] = ()
    refused: tuple[Refused, ...] = ()


def collect(items: Iterable[tuple[Path, Callable[[], list[FoundModel]]]]) -> Found:
    """Read each item; one that is refused does not hide the others."""
    models: list[FoundModel] = []
    refused: list[Refused] = []
    for path, read in items:
        try:
            models += read()
        except FoundryError as exc:
            refused.append(Refused(_printable(str(path)), _printable(exc.message)))
        except OSError as exc:
            refused.append(Refused(_printable(str(path)), exc.strerror or str(exc)))
    return Found(tuple(models), tuple(refused))


def _printable(text: str) -> str:
    """Names in others' folders may hold what would steer a terminal."""
    return text if text.isprintable() else ascii(text)


def children(folder: Path) -> list[Path]:
    """Entries of a folder in order; none where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def inside(path: Path, root: Path) -> Path:
    """The real path of a regular file, where that is below `root`. Raises NotAModel for a link that leads elsewhere."""
    real = path.resolve(strict=True)
    if not real.is_relative_to(root.resolve()):
        raise NotAModel(f"{path} is a link that leads out of {root}")
    if not real.is_file():
        raise NotAModel(f"{path} is not a regular file")
    return real


def files_below(folder: Path, root: Path) -> dict[str, Path]:
    """Files of a model's folder: relative name to real path, below `root`. Raises NotAModel; hidden ones are left out.

    Folders that are links are not entered. What is no regular file is left out where it is no model's file either.
    """
    found: dict[str, Path] = {}
    for path in _walk(folder, 0):
        name = relative_name(path.relative_to(folder).as_posix())
        found[name] = inside(path, root)
        if len(found) > MAX_FILES:
            raise NotAModel(f"{folder} holds more than {MAX_FILES} files")
    return found


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda e: e.name)
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth < _MAX_DEPTH:
                yield from _walk(Path(entry.path), depth + 1)
        elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def choices(label: str, names: Iterable[str]) -> list[Choice]:
    """Every model among the files of a folder: each GGUF, each ONNX Runtime GenAI folder, or else the safetensors.

    Raises SourceRefused where a split model lacks parts, NotAModel for pickles.
    """
    everything = sorted(names)
    found: dict[tuple[str, ...], Choice] = {}
    for name in everything:
        lower = name.lower()
        if (lower.endswith(".gguf") and "mmproj" not in lower) or name.split("/")[-1] == "genai_config.json":
            choice = choose(label, everything, name)
            found[choice.paths] = choice
    if found:
        return list(found.values())
    safe = [n for n in everything if "/" not in n and n.lower().endswith(_KEPT_BESIDE_SAFETENSORS)]
    if any(n.lower().endswith(".safetensors") for n in safe):
        return [Choice(tuple(safe), "", "safetensors")]
    return []


def planned(choice: Choice, files: Mapping[str, Path], sums: Mapping[str, str]) -> tuple[PlannedFile, ...]:
    """The files of a choice, named relative to its folder, with the sums that their owner promises."""
    prefix = f"{choice.base}/" if choice.base else ""
    return tuple(
        PlannedFile(
            relative_name(path.removeprefix(prefix)),
            local=files[path],
            size_bytes=files[path].stat().st_size,
            sha256=sums.get(path),
        )
        for path in choice.paths
    )
