"""A version of a GGUF model in tensor types, or a form, that an engine reads well: found, planned, and made.

    find ──▶ plan: what changes, is there room ──▶ carry_out: source verified ──▶ tmp/ ──▶ models/ in one rename

An engine that meets a type which it reads badly re-quantizes it and says nothing; so the store makes the file that the
engine reads as it is, once, and keeps how it was made. Tensors that are fine stay byte for byte. The result is a
version of its own, `<name>-q8_0` under its source's alias: it takes its own room, is removed by itself, and stays
sound when its source goes. Whether one is wanted is for the caller to say.

The target `openvino` is the model in Q8_0 as an OpenVINO folder, which that library loads and computes faster.

`python -m localfoundry.build.reencode ROOT ID TARGET` does the same in a process of its own, with the done share on
standard output, a number a line: the service starts that, since it must neither import numpy nor be busy so long.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

import localfoundry
from localfoundry.build import making, openvino
from localfoundry.errors import FoundryError, MissingExtra, ModelNotCached, UsageError
from localfoundry.formats.gguf import GgufHeader, read_gguf
from localfoundry.formats.gguf_types import bytes_per_value
from localfoundry.formats.shape import of_gguf
from localfoundry.sources.names import as_variant_name
from localfoundry.store import disk
from localfoundry.store.filing import appear, now, working
from localfoundry.store.manifest import Manifest, Recipe, StoredFile
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import Store

OPENVINO = "openvino"
TARGETS = ("Q8_0", "F16", OPENVINO)
BYTES_PER_S = 40_000_000  # of the new file, on one slow core (64 MB/s on an EPYC): for saying how long it will take
_FOLDER_BYTES_PER_S = 30_000_000  # of the OpenVINO folder, beside that
_GRAPH_BYTES = 4_000_000
_FOLDER_EXTRA_BYTES = 60  # for each token of the vocabulary
_TOOL = f"localfoundry {localfoundry.__version__}"
_PLAIN = frozenset({"F32", "F16", "F64", "I8", "I16", "I32", "I64"})  # every engine reads these
# What `blocks.py` takes apart, named here so that a plan can be made without numpy; a test holds both together.
_KNOWN = frozenset(
    {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a re-encoding would do. `present`: the version that is here already, and then nothing is to be done."""

    source: Manifest
    target: str
    name: str
    present: Manifest | None
    types: dict[str, str]  # the new type of each tensor type that changes
    tensors: dict[str, int]  # how many of each of these there are
    size_bytes: int  # of the new file
    free_bytes: int | None

    @property
    def needs_bytes(self) -> int:
        """Bytes that must be free: the file, and the room that is left over."""
        if self.present:
            return 0
        copies = 2 if self.target == OPENVINO else 1  # a folder is made of a file in Q8_0, which goes again
        return copies * self.size_bytes + making.ROOM_LEFT_BYTES

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.needs_bytes <= self.free_bytes

    @property
    def seconds(self) -> float:
        """How long it will take, at `BYTES_PER_S`."""
        if self.present:
            return 0.0
        folder = self.size_bytes / _FOLDER_BYTES_PER_S if self.target == OPENVINO else 0.0
        return self.size_bytes / BYTES_PER_S + folder


def target_of(word: str) -> str:
    """A target as a person writes it. Raises UsageError."""
    found = next((target for target in TARGETS if target.lower() == word.strip().lower()), None)
    if found is None:
        raise UsageError(
            f"models are re-encoded to {', '.join(TARGETS[:-1]).lower()} or {TARGETS[-1]}, not {word[:50]}", param="to"
        )
    return found


def find(store: Store, source: Manifest, target: str) -> Manifest | None:
    """The re-encoding of `source` that is here, however its source is called by now. Reads manifests only."""
    sha256 = making.main_file(store, source).sha256
    for made in store.manifests():
        recipe = made.recipe
        if recipe and recipe.stands_in and (recipe.source_sha256, recipe.target) == (sha256, target):
            return made
    return None


def plan(store: Store, source: Manifest, target: str = "Q8_0") -> Plan:
    """What making `source` over to `target` means. Reads the header; makes nothing. Blocking, milliseconds.

    Raises UsageError where there is nothing to do or a type cannot be re-encoded, NotAModel, DiskError.
    """
    target = target_of(target)
    if source.format != "gguf":
        raise UsageError(f"{source.id} is {source.format}, and only GGUF files are re-encoded")
    header = read_gguf(store.main_file(source))
    types = _new_types(source, header, target)
    if not types and target != OPENVINO:
        raise UsageError(
            f"{source.id} has nothing to re-encode: its tensors are {', '.join(sorted(header.tensor_types))}",
            hint=f"foundry model run {source.id}",
        )
    return Plan(
        source=source,
        target=target,
        name=as_variant_name(f"{source.name}-{target.lower()}"),
        present=find(store, source, target),
        types=types,
        tensors={kind: header.tensor_types[kind] for kind in types},
        size_bytes=size_after(header, types) + (_folder_extra(header) if target == OPENVINO else 0),
        free_bytes=disk.free_bytes(store.root),
    )


def size_after(header: GgufHeader, types: Mapping[str, str]) -> int:
    """Bytes of the new file, up to the alignment of its parts."""
    sizes = (t.values * (bytes_per_value(types.get(t.type, t.type)) or 0) for t in header.tensors)
    return header.header_bytes + sum(-(-int(size) // 32) * 32 for size in sizes)


def _folder_extra(header: GgufHeader) -> int:
    """Bytes of an OpenVINO folder beyond its weights: graphs of the model, and of the tokenizer with its texts."""
    return _GRAPH_BYTES + _FOLDER_EXTRA_BYTES * (header.vocab_size or 0)


def _new_types(source: Manifest, header: GgufHeader, target: str) -> dict[str, str]:
    """The type that each type of tensor becomes, without those that stay. BF16 becomes F16, which holds its bits."""
    if header.parts > 1:
        raise UsageError(f"{source.id} is in {header.parts} files, and only models in one file are re-encoded")
    wide, target = {"BF16": "F16"}, _tensor_type(target)
    types = {
        kind: wide.get(kind, target) for kind in sorted(header.tensor_types) if kind not in _PLAIN and kind != target
    }
    unknown = [kind for kind in types if kind not in _KNOWN and kind not in wide]
    if unknown:
        raise UsageError(
            f"{source.id} has tensors of type {', '.join(unknown)}, which cannot be re-encoded here",
            hint=f"foundry model info {source.alias}",
        )
    return types


def _tensor_type(target: str) -> str:
    return "Q8_0" if target == OPENVINO else target


def carry_out(store: Store, made: Plan, progress: Progress | None = None) -> Manifest:
    """Make the version and return it; the one that is here, where there is one. Blocking: seconds per 100 MB.

    Raises DiskFull before anything is written, DamagedModel where the source is not what was verified, LossyEncoding,
    MissingExtra without numpy, DiskError. `progress` may raise to end it. On any end but the last step the store is as
    it was; what a kill leaves in tmp/ is nobody's, and `cache clean` removes it.
    """
    if importlib.util.find_spec("numpy") is None:
        raise MissingExtra("re-encoding needs numpy", hint="pip install 'localfoundry[reencode]'")
    progress = progress or Silent()
    key = f"reencode-{made.name[:60]}-{making.main_file(store, made.source).sha256[:12]}"
    with working(store, key, made.name, progress) as work:
        present = find(store, made.source, made.target)
        if present is not None:
            return present
        if made.target == OPENVINO:
            openvino.require()
        making.require_room(store, made.name, made.size_bytes, made.needs_bytes)
        making.verify_source(store, made.source, progress)
        return _make(store, made, work, progress)


def _make(store: Store, made: Plan, work: Path, progress: Progress) -> Manifest:
    staged, fresh = work / "version", work / "reencoded.gguf"
    disk.remove_tree(staged)
    staged.mkdir()
    path = store.main_file(made.source)
    largest = rms = 0.0
    if made.types:
        from localfoundry.build.rewrite import write

        progress.start("Re-encoding", path.name, path.stat().st_size)
        kind = _tensor_type(made.target)
        old = read_gguf(path)
        types = {t.name: made.types[t.type] for t in old.tensors if t.type in made.types}
        written = write(path, old, types, kind, fresh, progress.position)
        path, largest, rms = fresh, written.largest_error, written.rms_error
    header = read_gguf(path)
    if made.target == OPENVINO:
        progress.start("Converting", made.name, None)
        openvino.convert(path, staged)
    else:
        fresh.rename(staged / f"{Path(making.main_file(store, made.source).name).stem}-{made.target}.gguf")
    recipe = Recipe(
        source_id=made.source.id, source_sha256=making.main_file(store, made.source).sha256, target=made.target,
        changed=made.types, tool=_TOOL, largest_error=float(f"{largest:.3g}"), rms_error=float(f"{rms:.3g}"),
    )  # fmt: skip
    files = tuple(making.settled(store, file) for file in sorted(staged.iterdir()))
    return appear(store, staged, _manifest(made, header, files, recipe))


def _manifest(made: Plan, header: GgufHeader, files: tuple[StoredFile, ...], recipe: Recipe) -> Manifest:
    """That of the source, since the metadata was copied; what the weights tell is read from the new file."""
    return msgspec.structs.replace(
        made.source,
        name=made.name,
        source=f"reencoded:{made.source.id}",
        format="openvino" if made.target == OPENVINO else "gguf",
        files=files,
        created_at=now(),
        quantization=header.quantization,
        shape=of_gguf(header),
        recipe=recipe,
    )


class _Lines:
    """Progress for a parent process: the share that is done, once a hundredth."""

    def __init__(self) -> None:
        self._total = 0
        self._told = -1
        self._counts = False

    def start(self, step: str, name: str, total: int | None) -> None:
        self._total, self._counts = total or 0, step == "Re-encoding"

    def position(self, done: int) -> None:
        hundredths = done * 100 // self._total if self._total else 0
        if self._counts and hundredths > self._told:
            self._told = hundredths
            print(f"{hundredths / 100:.2f}", flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """What `python -m localfoundry.build.reencode` does. Exit status 0: made, or here; else the words on stderr."""
    root, name, target = arguments
    store = Store(Path(root))
    source = store.find(name)
    try:
        if source is None:
            raise ModelNotCached(f"{name} is not on this disk")
        carry_out(store, plan(store, source, target), _Lines())
    except FoundryError as exc:
        print(exc.message, file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
