"""A version of a GGUF model in a smaller type: planned, and made.

    plan: which tool, how large, is there room, why not ──▶ make: source verified ──▶ tmp/ ──▶ models/ in one rename

Q8_0, F16, BF16 and the types with one step for 32 values are made here, with numpy, the same bytes on every machine.
All others, and any with an importance matrix, need llama.cpp's `llama-quantize`, which runs in a process of its own
with a bound on its memory (`llama_tools.py`). What is lost is lost: unlike a re-encoding the result is another model to
choose, `<model>-q4_k_m` under its source's alias, and never stands in for its source. How far it is from it,
`foundry eval --fidelity` says.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import localfoundry
from localfoundry.build import importance, llama_tools, making, mixture
from localfoundry.build.making import ROOM_LEFT_BYTES, main_file
from localfoundry.config import Settings
from localfoundry.errors import MissingExtra, UsageError
from localfoundry.formats.gguf import GgufHeader, read_gguf
from localfoundry.formats.gguf_types import BLOCKS, FILE_TYPE_NUMBERS
from localfoundry.formats.shape import of_gguf
from localfoundry.sources.choose import quantization_of
from localfoundry.sources.names import as_variant_name
from localfoundry.store import disk
from localfoundry.store.filing import appear, now, working
from localfoundry.store.manifest import Manifest, Recipe
from localfoundry.store.progress import Progress, Silent
from localfoundry.store.store import Store

OURS, THEIRS = "localfoundry", "llama-quantize"
INSTALL = "foundry engine install llama.cpp --native"
_BYTES_PER_S = 40_000_000  # of the new file, by numpy on one slow core
# Values a second on one slow core, by llama-quantize: without a search, with one for K types, with one over a lattice.
_VALUES_PER_S = {"": 100_000_000, "K": 50_000_000, "IQ": 6_000_000}
_IMATRIX_VALUES_PER_S = 60_000_000  # weights a second, for the whole calibration text, on one slow core
_WIDE = frozenset({"F32", "F16", "BF16", "F64"})
_NEAR = _WIDE | {"Q8_0"}  # from these a quantization loses next to nothing more than from the weights themselves
_READ = frozenset(
    {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
     "IQ4_XS", "MXFP4"}
)  # what `rewrite.py` takes apart; a test holds both together  # fmt: skip
_ORDER = ("F32", "F64", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_K_S",
          "IQ4_NL", "IQ4_XS", "Q4_0")  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """What a quantization would do. `why_not` says why it cannot be done and `hint` what to type to change that.

    `size_bytes` is exact, up to the alignment of its parts, where `tool` is ours, else an estimate (10 %); `seconds`
    is a guess. `present`: the version that is here already, and then nothing is to be done.
    """

    origin: Manifest
    name: str
    type: str
    tool: str  # OURS or THEIRS
    tensor_types: tuple[tuple[str, str], ...]  # a regular expression for names, and the type of what it finds
    imatrix: bool
    size_bytes: int
    needs_bytes: int  # that must be free, with what is left over
    free_bytes: int | None
    seconds: float
    present: Manifest | None
    warning: str | None  # of what the result loses beyond its type
    why_not: str | None
    hint: str | None
    program: Path | None  # THEIRS, where it is

    @property
    def source(self) -> str:
        return self.origin.id

    @property
    def fits(self) -> bool:
        """Whether there is room on the disk."""
        return self.present is not None or self.free_bytes is None or self.needs_bytes <= self.free_bytes


def type_of(word: str) -> str:
    """A type as a person writes it: `q4_k_m`; `Q4_K` is `Q4_K_M`, as for llama.cpp. Raises UsageError."""
    wanted = word.strip().upper().replace("-", "_")
    wanted = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}.get(wanted, wanted)
    if wanted not in mixture.TYPES:
        raise UsageError(f"{word[:50]} is not a type that models are quantized to: {', '.join(mixture.TYPES)}",
                         hint="foundry model quantize MODEL --to Q4_K_M", param="to")  # fmt: skip
    return wanted


def tensor_types_of(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`attn_v=q8_0` and the like: a regular expression for tensors' names, and their type. Raises UsageError."""
    found = []
    for word in words:
        pattern, _, kind = word.rpartition("=")
        if not pattern or kind.upper() not in BLOCKS or not _is_expression(pattern):
            raise UsageError(
                f"{word[:80]!r} does not give tensors a type", hint="--tensor-type attn_v=Q8_0", param="tensor_type"
            )
        found.append((pattern, kind.upper()))
    return tuple(found)


def _is_expression(pattern: str) -> bool:
    """Plain enough to mean the same to Python and to llama.cpp, and to be matched quickly."""
    return re.fullmatch(r"[\w.|^$\\()\[\]-]{1,200}", pattern) is not None and _compiles(pattern)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def best_source(store: Store, version: Manifest) -> Manifest:
    """Of the GGUF versions of the same model here the one that lost least; `version` where none is better.

    The same model: the same alias, and not made by another quantization than a re-encoding of the one it is made of.
    """
    same = [m for m in store.manifests() if m.alias == version.alias and m.format == "gguf" and not _derived(m)]
    ranked = sorted(same, key=lambda m: (_rank(m), m.recipe is not None, m.id != version.id))
    return ranked[0] if ranked and _rank(ranked[0]) < _rank(version) else version


def _derived(version: Manifest) -> bool:
    return version.recipe is not None and version.recipe.kind != "compiled"


def _rank(version: Manifest) -> int:
    kind = version.quantization or ""
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def plan(
    store: Store, origin: Manifest, type: str, settings: Settings, *, imatrix: bool = False,
    tensor_types: tuple[tuple[str, str], ...] = (), allow_requantize: bool = False,
) -> QuantPlan:  # fmt: skip
    """What making `origin` over to `type` means. Reads the header; makes nothing. Blocking, milliseconds.

    Raises UsageError for a type that does not exist, NotAModel, DiskError.
    """
    kind = type_of(type)
    if origin.format != "gguf":
        raise UsageError(f"{origin.id} is {origin.format}, and only GGUF files are quantized",
                         hint=f"foundry model compile {origin.alias} --format gguf")  # fmt: skip
    header = read_gguf(store.main_file(origin))
    ours = _is_ours(header, kind, tensor_types, imatrix=imatrix)
    program = None if ours else llama_tools.find(THEIRS, settings)
    size = mixture.estimated_bytes(header, kind, tensor_types)
    present = find(store, origin, kind, OURS if ours else THEIRS, tensor_types, imatrix=imatrix)
    why_not, hint = (None, None) if present else _obstacle(origin, header, kind, tensor_types)
    if why_not is None and present is None and program is None and not ours:
        why_not, hint = f"{kind} is made by {THEIRS}, which is not here", INSTALL
    if why_not is None and present is None and not imatrix and kind in mixture.NEED_IMATRIX:
        why_not = f"{kind} needs an importance matrix: without one the result would be garbage"
        hint = f"foundry model quantize {origin.id} --to {kind} --imatrix"
    loss = _loss(origin, header, kind)
    if why_not is None and present is None and loss and not allow_requantize:
        why_not, hint = loss, f"foundry model quantize {origin.id} --to {kind} --allow-requantize"
    return QuantPlan(
        origin=origin, name=_name(origin, kind, tensor_types, imatrix=imatrix), type=kind,
        tool=OURS if ours else THEIRS, tensor_types=tensor_types, imatrix=imatrix, size_bytes=size,
        needs_bytes=0 if present else size + (0 if ours else size // 10) + ROOM_LEFT_BYTES,
        free_bytes=disk.free_bytes(store.root), seconds=0.0 if present else _seconds(header, kind, size, ours, imatrix),
        present=present, warning=loss, why_not=why_not, hint=hint, program=program,
    )  # fmt: skip


def find(
    store: Store, origin: Manifest, kind: str, tool: str, tensor_types: tuple[tuple[str, str], ...] = (),
    *, imatrix: bool = False,
) -> Manifest | None:  # fmt: skip
    """The version that this quantization of `origin` made, where it is here. Reads manifests only."""
    wanted = (main_file(store, origin).sha256, kind, _options(tensor_types), tool, imatrix)
    for version in store.manifests():
        made = version.recipe
        if made is None or made.kind != "quantized":
            continue
        given = (made.source_sha256, made.target, made.options, made.tool.split()[0], "imatrix" in made.inputs)
        if given == wanted:
            return version
    return None


def make(
    store: Store, made: QuantPlan, *, progress: Progress | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Manifest:
    """Make the version and return it; the one that is here, where there is one. Blocking.

    Raises UsageError where the plan has a `why_not`, DiskFull before anything is written, DamagedModel where the source
    is not what was verified, LossyEncoding where a weight is no number, BuildFailed, BuildCancelled, MissingExtra
    without numpy. `progress` may raise to end it. On any end but the last step the store is as it was.
    """
    progress = progress or Silent()
    if made.why_not:
        raise UsageError(made.why_not, hint=made.hint)
    if made.tool == OURS and importlib.util.find_spec("numpy") is None:
        raise MissingExtra("quantizing needs numpy", hint="pip install 'localfoundry[reencode]'")
    key = f"quantize-{made.name[:60]}-{main_file(store, made.origin).sha256[:12]}"
    with working(store, key, made.name, progress) as work:
        present = find(store, made.origin, made.type, made.tool, made.tensor_types, imatrix=made.imatrix)
        if present is not None:
            return present
        making.require_room(store, made.name, made.size_bytes, made.needs_bytes)
        making.verify_source(store, made.origin, progress)
        staged = work / "version"
        disk.remove_tree(staged)
        staged.mkdir()
        target = staged / f"{_stem(Path(main_file(store, made.origin).name).stem)}-{made.type}.gguf"
        step = _with_numpy if made.tool == OURS else _with_llama_cpp
        recipe = step(store, made, target, progress, cancelled)
        return _filed(store, made, staged, recipe)


def _with_numpy(
    store: Store, made: QuantPlan, target: Path, progress: Progress, cancelled: Callable[[], bool]
) -> Recipe:
    from localfoundry.build.rewrite import write

    path = store.main_file(made.origin)
    header = read_gguf(path)
    types = mixture.plain_types(header, made.type, made.tensor_types)

    def report(done: int) -> None:
        llama_tools.stop_if(cancelled, made.name)
        progress.position(done)

    progress.start("Quantizing", path.name, path.stat().st_size)
    written = write(path, header, types, made.type, target, report, bounded=False)
    return _recipe(
        store, made, f"{OURS} {localfoundry.__version__}", header, target,
        largest_error=float(f"{written.largest_error:.3g}"), rms_error=float(f"{written.rms_error:.3g}"),
    )  # fmt: skip


def _with_llama_cpp(
    store: Store, made: QuantPlan, target: Path, progress: Progress, cancelled: Callable[[], bool]
) -> Recipe:
    assert made.program is not None
    path = store.main_file(made.origin)
    header = read_gguf(path)
    inputs: dict[str, str] = {}
    arguments, folder = ["--allow-requantize"], None
    if made.imatrix:
        matrix = importance.matrix(store, made.origin, made.program, progress, cancelled)
        inputs, folder = {"imatrix": matrix.sha256, "calibration": matrix.text_sha256}, matrix.path.parent
        arguments += ["--imatrix", matrix.path.name]  # goes into the file, which must not name folders of this machine
    for pattern, kind in made.tensor_types:
        arguments += ["--tensor-type", f"{pattern}={kind.lower()}"]
    largest = max((t.values for t in header.tensors), default=0)
    told = llama_tools.run(
        made.program, [*arguments, str(path), str(target), made.type, str(os.cpu_count() or 1)],
        memory_bytes=2 * 2**30 + 8 * largest, step="Quantizing", name=made.name, progress=progress, cancelled=cancelled,
        folder=folder, size_bytes=path.stat().st_size,
    )  # fmt: skip
    return _recipe(store, made, f"{THEIRS} {llama_tools.build_of(told)}", header, target, inputs)


def _recipe(
    store: Store, made: QuantPlan, tool: str, old: GgufHeader, target: Path, inputs: dict[str, str] | None = None,
    *, largest_error: float | None = None, rms_error: float | None = None,
) -> Recipe:  # fmt: skip
    new = {t.name: t.type for t in read_gguf(target).tensors}
    changed: dict[str, list[str]] = {}
    for tensor in old.tensors:
        kind = new.get(tensor.name, tensor.type)
        if kind != tensor.type and kind not in changed.setdefault(tensor.type, []):
            changed[tensor.type].append(kind)
    return Recipe(
        source_id=made.source, source_sha256=main_file(store, made.origin).sha256, target=made.type,
        changed={kind: " and ".join(others) for kind, others in changed.items()}, tool=tool,
        largest_error=largest_error, rms_error=rms_error, kind="quantized", options=_options(made.tensor_types),
        inputs=inputs or {},
    )  # fmt: skip


def _filed(store: Store, made: QuantPlan, staged: Path, recipe: Recipe) -> Manifest:
    files = tuple(making.settled(store, file) for file in sorted(staged.iterdir()))
    header = read_gguf(staged / files[0].name)
    return appear(store, staged, msgspec.structs.replace(
        made.origin, name=made.name, source=f"quantized:{made.source}", files=files, created_at=now(),
        quantization=made.type if made.type in FILE_TYPE_NUMBERS else header.quantization, shape=of_gguf(header),
        adopted=None, recipe=recipe,
    ))  # fmt: skip


def _options(tensor_types: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {"tensor-type": " ".join(f"{pattern}={kind}" for pattern, kind in tensor_types)} if tensor_types else {}


def _is_ours(header: GgufHeader, kind: str, tensor_types: tuple[tuple[str, str], ...], *, imatrix: bool) -> bool:
    wanted = {kind, *(other for _, other in tensor_types)}
    return not imatrix and wanted <= set(mixture.PLAIN) and set(header.tensor_types) <= _READ


def _obstacle(
    origin: Manifest, header: GgufHeader, kind: str, tensor_types: tuple[tuple[str, str], ...]
) -> tuple[str | None, str | None]:
    """What no tool can do, with what to type instead."""
    if header.parts > 1:
        return f"{origin.id} is in {header.parts} files, and only models in one file are quantized", (
            f"foundry model info {origin.alias}"
        )
    if kind in mixture.PLAIN and not tensor_types and not mixture.plain_types(header, kind):
        return f"{origin.id} is {kind} already", f"foundry model run {origin.id}"
    return None, None


def _loss(origin: Manifest, header: GgufHeader, kind: str) -> str | None:
    """Words for weights that were quantized before; None where that costs next to nothing."""
    kinds = {t.type for t in header.tensors if mixture.quantizable(t)}
    if origin.recipe is not None and origin.recipe.kind != "compiled":
        kinds |= set(origin.recipe.changed)  # what its weights were before is what was lost
    lossy = sorted(kinds - _NEAR)
    if not lossy or kind in ("Q8_0", *mixture.HALF):
        return None
    return f"the weights of {origin.id} are {', '.join(lossy)} already, and {kind} made from that loses more than "\
        f"{kind} made from the original weights"  # fmt: skip


def _seconds(header: GgufHeader, kind: str, size_bytes: int, ours: bool, imatrix: bool) -> float:
    values, cores = sum(t.values for t in header.tensors), os.cpu_count() or 1
    if ours:
        return size_bytes / _BYTES_PER_S
    family = "IQ" if kind.startswith(("IQ", "TQ")) else "K" if "_K" in kind else ""
    more = values / _IMATRIX_VALUES_PER_S * importance.CHUNKS if imatrix else 0.0
    return (values / _VALUES_PER_S[family] + more) / cores


def _stem(name: str) -> str:
    """`smollm2-135m-instruct` of `smollm2-135m-instruct-q4_1-q8_0`: a name without what it was quantized to."""
    while (found := quantization_of(name)) and name.upper().endswith(found):
        name = name[: -len(found)].rstrip("-._")
    return name or "model"


def _name(origin: Manifest, kind: str, tensor_types: tuple[tuple[str, str], ...], *, imatrix: bool) -> str:
    more = ("-mixed" if tensor_types else "") + ("-imatrix" if imatrix else "")
    return as_variant_name(f"{_stem(origin.name)}-{kind.lower()}{more}")
