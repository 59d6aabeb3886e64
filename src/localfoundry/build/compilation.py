"""A model compiled into a form that an engine runs: planned, built step by step, tried, and then a version.

    plan: what is made, what it takes ──▶ carry_out: source hashed ──▶ steps ──▶ tried ──▶ models/ in one rename

The steps and their order follow from source and target:

    GGUF in the store ─ checkpoint ─┬─ onnx                     ONNX Runtime GenAI's model builder
    Hugging Face folder ────────────┼─ gguf [─ quantize]        llama.cpp's converter and quantizer
                                    └─ gguf Q8_0 ─ openvino     our own writer: no second exporter is needed

Work is in `tmp/compile-…/` of the store (see `stages.py`), so that what an interrupted build has finished is taken over
by the next one and `cache clean` knows what is left. A version appears after everything else, with its whole recipe in
its manifest. How good it is, is measured by whoever is given as `tried`: that takes a service, which is above this.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

import localfoundry
from localfoundry.build import checkpoint, gguf_converter, onnx_builder, openvino, stages
from localfoundry.build.checkpoint import Checkpoint
from localfoundry.build.child import Ended, discard
from localfoundry.build.child import run as run_child
from localfoundry.build.making import ROOM_LEFT_BYTES, main_file, require_room, settled, verify_source
from localfoundry.build.stages import Built, Stage
from localfoundry.build.targets import CONVERTED, Target
from localfoundry.build.toolchain import Toolchain
from localfoundry.config import Settings
from localfoundry.errors import InsufficientMemory, NotCompilable
from localfoundry.hardware import memory
from localfoundry.hardware.readings import ThisSystem
from localfoundry.sources.names import as_variant_name, variant_name
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import adopted, disk
from localfoundry.store.facts import facts_of
from localfoundry.store.filing import appear, now, working
from localfoundry.store.manifest import Manifest, Recipe, StoredFile
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store
from localfoundry.units import format_bytes

_CHECKPOINT_BYTES = 700_000_000  # torch and transformers, beside the weights
_CHECKPOINT_PACKAGES = ("torch", "transformers", "accelerate", "gguf", "safetensors")
_BYTES_PER_S = 15_000_000  # of float32 weights through a step, on two cores: for saying how long it will take


@dataclass(frozen=True, slots=True)
class Source:
    """What is compiled: a folder of its authors' form, or a GGUF version of the store.

    `words` is what manifests say: `hf:ORG/REPO@COMMIT`, `file:PATH` or the id of a version.
    """

    words: str
    name: str
    alias: str
    folder: Checkpoint | None = None
    version: Manifest | None = None
    commit: str | None = None
    license: str | None = None

    @property
    def parameters(self) -> int:
        if self.folder is not None:
            return self.folder.parameters
        assert self.version is not None
        return self.version.parameters or self.version.size_bytes * 2

    @property
    def layers(self) -> int | None:
        """None: nothing tells."""
        if self.folder is not None:
            return self.folder.layers
        shape = self.version.architecture if self.version else None
        return shape.layers if shape else None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would do. Bytes are estimates; `fits_disk` and `fits_memory` compare them with what is free now."""

    source: Source
    target: Target
    name: str
    steps: tuple[str, ...]
    size_bytes: int
    disk_bytes: int
    memory_bytes: int
    free_disk_bytes: int | None
    free_memory_bytes: int | None

    @property
    def fits_disk(self) -> bool:
        return self.free_disk_bytes is None or self.disk_bytes <= self.free_disk_bytes

    @property
    def fits_memory(self) -> bool:
        return self.free_memory_bytes is None or self.memory_bytes <= self.free_memory_bytes

    @property
    def seconds(self) -> float:
        """About how long the steps will take."""
        return len(self.steps) * (5 + 4 * self.source.parameters / _BYTES_PER_S)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried before it appears: the staged folder, its manifest, and the folder that says what it should say."""

    staged: Path
    manifest: Manifest
    source: Path
    work: Path
    built: Built
    log: Path


Tried = Callable[[Trial], Mapping[str, str]]


def plan(settings: Settings, store: Store, tools: Toolchain, source: Source, target: Target, name: str | None) -> Plan:
    """What compiling `source` means. Makes nothing. Raises NotCompilable, MissingExtra, UsageError."""
    _require(settings, tools, source, target)
    parameters = source.parameters
    floats = 4 * parameters
    steps = _step_names(source, target)
    size = target.size_bytes(parameters)
    needs = size + (floats if "checkpoint" in steps else 0)
    needs += floats if "onnx" in steps else 0  # the builder's own files meanwhile
    needs += 2 * parameters if "quantize" in steps else 0
    needs += size if "openvino" in steps else 0
    weights = source.folder.weight_bytes if source.folder else floats
    takes = [onnx_builder.memory_bytes(parameters) if "onnx" in steps else gguf_converter.memory_bytes(weights)]
    takes += [int(_CHECKPOINT_BYTES + 2.2 * floats)] if "checkpoint" in steps else []
    return Plan(
        source=source,
        target=target,
        name=variant_name(name) if name else as_variant_name(f"{source.name}-{target.suffix}"),
        steps=steps,
        size_bytes=size,
        disk_bytes=needs + ROOM_LEFT_BYTES,
        memory_bytes=max(takes),
        free_disk_bytes=disk.free_bytes(store.root),
        free_memory_bytes=memory.read(ThisSystem()).available_bytes,
    )


def _require(settings: Settings, tools: Toolchain, source: Source, target: Target) -> None:
    if source.version is not None:
        _require_version(source.version, target)
        tools.require(*_CHECKPOINT_PACKAGES)
    elif source.folder is not None and source.folder.quantized and target.format != "onnx":
        raise NotCompilable(
            f"{source.name} has weights that are quantized already ({source.folder.quantized})",
            hint="compile the model that it was made of",
        )
    if target.format == "onnx":
        tools.require(*onnx_builder.PACKAGES)
        if source.folder is not None:
            onnx_builder.require(tools, source.folder.architecture)
    else:
        gguf_converter.require(settings, tools, target if target.format == "gguf" else Target("gguf", "Q8_0"))
    if target.format == "openvino":
        openvino.require()


def _require_version(version: Manifest, target: Target) -> None:
    if version.format != "gguf":
        raise NotCompilable(f"{version.id} is {version.format}: only GGUF and safetensors are compiled")
    if target.format == "gguf":
        kind = target.precision.lower()
        command = "reencode" if kind in ("q8_0", "f16") else "quantize"
        raise NotCompilable(
            f"{version.id} is a GGUF file already", hint=f"foundry model {command} {version.alias} --to {kind}"
        )
    if target.format == "openvino":
        raise NotCompilable(
            f"{version.id} becomes an OpenVINO folder without a compiler",
            hint=f"foundry model reencode {version.alias} --to openvino",
        )
    if "chat" not in version.tasks:
        raise NotCompilable(f"{version.id} is for {', '.join(version.tasks)}; models that chat are compiled")


def _step_names(source: Source, target: Target) -> tuple[str, ...]:
    steps = ["checkpoint"] if source.version is not None else []
    if target.format == "onnx":
        return (*steps, "onnx")
    if target.format == "openvino":
        return (*steps, "gguf", "openvino")
    return (*steps, "gguf") if target.precision in CONVERTED else (*steps, "gguf", "quantize")


def require_memory(made: Plan) -> None:
    """Raise InsufficientMemory where the largest step needs more than is free."""
    if made.fits_memory:
        return
    raise InsufficientMemory(
        f"compiling {made.source.name} needs about {format_bytes(made.memory_bytes)} of memory, and "
        f"{format_bytes(made.free_memory_bytes)} are free",
        need_bytes=made.memory_bytes,
        free_bytes=made.free_memory_bytes or 0,
        hint="foundry service stop frees what loaded models hold; a smaller model needs less",
    )


def work_key(made: Plan) -> str:
    """Name of the work folder: the same source and target meet in it, whatever the result is called."""
    return f"compile-{made.source.name[:40]}-{stages.key_of(made.source.words, made.target.words)[:12]}"


def carry_out(
    settings: Settings, store: Store, tools: Toolchain, made: Plan, progress: Progress, *, tried: Tried | None = None
) -> tuple[Manifest, bool]:  # fmt: skip
    """Make the version; the one that is here, where the same was made before. True: it was made now. Blocking.

    Raises BuildFailed, DiskFull, InsufficientMemory, DamagedModel, NotCompilable, and what `tried` raises. Whatever
    ends it, no version appears half made, and finished steps are taken over by the next attempt."""
    with working(store, work_key(made), made.name, progress, keep=True) as work:
        builder = _Build(settings, store, tools, made, progress, work)
        source, sums = builder.prepared()
        planned = builder.stages()
        recipe = builder.recipe(planned, sums)
        present = find(store, recipe)
        if present is not None:
            return present, False
        builder.require_room(planned)
        built = stages.run(work, source, stages.key_of(sums), planned, progress)
        staged = _staged(built, work)
        manifest = builder.manifest(staged, recipe)
        if tried is not None:
            folder = work / "1-checkpoint" if made.source.version is not None else source
            checked = tried(Trial(staged, manifest, folder, work, built, builder.log))
            manifest = replace(manifest, recipe=replace(recipe, checked=dict(checked)))
        progress.start("Filing", made.name, None)
        return appear(store, staged, replace(manifest, files=_settled(store, staged))), True


@dataclass(frozen=True, slots=True)
class Compared:
    """A file of the version that is here, beside the one that was built again."""

    name: str
    same: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether building again gave the version that is here."""

    id: str
    files: tuple[Compared, ...]

    @property
    def same(self) -> bool:
        return all(file.same for file in self.files)


def verify(settings: Settings, store: Store, tools: Toolchain, made: Plan, progress: Progress) -> Verified:
    """Build what is here already once more, from nothing, and compare. Files nothing. Raises as `carry_out` does.

    Raises NotCompilable where the same source, options and tools have not given a version that is here.
    """
    with working(store, f"{work_key(made)}-again", made.name, progress) as work:
        builder = _Build(settings, store, tools, made, progress, work)
        source, sums = builder.prepared()
        planned = builder.stages()
        present = find(store, builder.recipe(planned, sums))
        if present is None:
            raise NotCompilable(
                f"{made.name} was not made here with these options and versions, so there is nothing to compare",
                hint="foundry model compile without --verify makes it; foundry model info shows recipes",
            )
        builder.require_room(planned)
        built = stages.run(work, source, stages.key_of(sums), planned, progress)
        found = {path.relative_to(built.folder).as_posix(): adopted.sha256_of(path) for path in _files(built.folder)}
        old = {file.name: file.sha256 for file in present.files}
        return Verified(present.id, tuple(Compared(n, old.get(n) == found.get(n)) for n in sorted(old | found)))


def find(store: Store, recipe: Recipe) -> Manifest | None:
    """The version that this build gave before, whatever it is called. Reads manifests only."""

    def plain(found: Recipe) -> Recipe:
        return replace(found, checked={}, source_id="", commit=None)

    wanted = plain(recipe)
    return next((m for m in store.manifests() if m.recipe and plain(m.recipe) == wanted), None)


class _Build:
    """One build: its source, its steps, its manifest."""

    def __init__(
        self, settings: Settings, store: Store, tools: Toolchain, made: Plan, progress: Progress, work: Path
    ) -> None:
        self._settings, self._store, self._tools = settings, store, tools
        self._made, self._progress, self._work = made, progress, work
        self.log = log_of(settings, made)

    def prepared(self) -> tuple[Path, dict[str, str]]:
        """The folder that the first step reads, and the sums of what is in it."""
        given, source = self._made.source, self._work / "0-source"
        disk.remove_tree(source)
        source.mkdir()
        if given.version is not None:
            verify_source(self._store, given.version, self._progress)
            main = main_file(self._store, given.version)
            disk.link_or_copy(self._store.main_file(given.version), source / Path(main.name).name)
            return source, {main.name: main.sha256}
        assert given.folder is not None
        self._progress.start("Reading", given.name, checkpoint.size_bytes(given.folder))
        sums = checkpoint.sums(given.folder, self._progress.position)
        checkpoint.link_into(given.folder, source)
        return source, sums

    def stages(self) -> list[Stage]:
        made, tools = self._made, self._tools
        planned = []
        if made.source.version is not None:
            planned.append(self._checkpoint())
        if made.target.format == "onnx":
            return [*planned, onnx_builder.stage(tools, made.source.layers, made.target, self.log, self._report())]
        gguf = made.target if made.target.format == "gguf" else Target("gguf", "Q8_0")
        planned += gguf_converter.stages(self._settings, tools, as_variant_name(made.source.name), gguf, self.log)
        return [*planned, self._openvino()] if made.target.format == "openvino" else planned

    def _report(self) -> Callable[[float], None]:
        """A step's share as bytes of weights, which is what progress counts."""
        total = 4 * self._made.source.parameters
        begun = False

        def report(share: float) -> None:
            nonlocal begun
            if not begun:
                self._progress.start("Building", self._made.name, total)
                begun = True
            self._progress.position(int(share * total))

        return report

    def _checkpoint(self) -> Stage:
        def make(before: Path, folder: Path) -> Ended:
            file = next(before.glob("*.[gG][gG][uU][fF]"))
            private = folder.with_name(f"{folder.name}.tmp")
            private.mkdir(exist_ok=True)
            command = self._tools.script("compile_checkpoint", str(file), str(folder))
            try:
                took = run_child(command, self.log, "transformers", _ignore, private=private)
            finally:
                discard(private)
            found = checkpoint.read(folder)
            if self._made.target.format == "onnx":
                onnx_builder.require(self._tools, found.architecture)
            return took

        return Stage("checkpoint", "its weights in float32 as a Hugging Face folder", {"dtype": "float32"},
                     self._tools.versions(*_CHECKPOINT_PACKAGES), make)  # fmt: skip

    def _openvino(self) -> Stage:
        import importlib.metadata
        import time

        def make(before: Path, folder: Path) -> Ended:
            began = time.monotonic()
            openvino.convert(next(before.glob("*.gguf")), folder)
            return Ended(time.monotonic() - began, 0)

        version = importlib.metadata.version("openvino-genai")
        return Stage("openvino", "an OpenVINO folder", {"weights": "int8"}, {"openvino-genai": version}, make)

    def require_room(self, planned: list[Stage]) -> None:
        """Refuse before anything is made what cannot fit. A build that goes on needs less, which is not reckoned."""
        made = self._made
        if any((self._work / f"{n}-{stage.name}.json").exists() for n, stage in enumerate(planned, 1)):
            return
        require_room(self._store, f"compiling {made.source.name}", made.disk_bytes - ROOM_LEFT_BYTES, made.disk_bytes)
        require_memory(made)

    def recipe(self, planned: list[Stage], sums: dict[str, str]) -> Recipe:
        """What it is made of and with. The main file of a folder is its first one with weights."""
        main, *others = sums
        source = self._made.source
        return Recipe(
            source_id=source.words, source_sha256=sums[main], target=self._made.target.words, changed={},
            tool=f"localfoundry {localfoundry.__version__}", kind="compiled",
            options=_merged(*(stage.options for stage in planned)), tools=_merged(*(stage.tools for stage in planned)),
            inputs={name: sums[name] for name in others}, commit=source.commit,
        )  # fmt: skip

    def manifest(self, staged: Path, recipe: Recipe) -> Manifest:
        """The version as it will be, its files not yet hashed. Raises NotAModel for what is none."""
        made, origin = self._made, self._made.source.version
        names = [path.relative_to(staged).as_posix() for path in _files(staged)]
        source = f"compiled:{made.source.words}"
        files = tuple(PlannedFile(name=name, local=staged / name) for name in names)
        facts = facts_of(staged, PullPlan(made.name, None, made.source.alias, source, made.target.format, files), names)
        plain = Manifest(
            name=made.name, version=0, alias=made.source.alias, source=source, format=made.target.format, files=(),
            created_at=now(), commit=made.source.commit, recipe=recipe,
            license=made.source.license or (origin.license if origin else None),
        )  # fmt: skip
        known = {key: value for key, value in facts.items() if value is not None and key != "license"}
        more: dict[str, object] = {"parameters": made.source.parameters, "quantization": made.target.precision}
        return replace(plain, **(more | known))


def log_of(settings: Settings, made: Plan) -> Path:
    """Where the tools' own words are kept."""
    return settings.log_dir / f"{work_key(made)}.log"


def _staged(built: Built, work: Path) -> Path:
    """The result's files under second names: those of the last step stay, should the trial refuse it."""
    staged = work / "version"
    disk.remove_tree(staged)
    staged.mkdir()
    for path in sorted(built.folder.rglob("*")):
        target = staged / path.relative_to(built.folder)
        if path.is_dir():
            target.mkdir()
        elif path.is_symlink():
            shutil.copyfile(path, target)
        else:
            disk.link_or_copy(path, target)
    return staged


def _settled(store: Store, staged: Path) -> tuple[StoredFile, ...]:
    """The largest first: figures are kept under the sum of the first file, and small ones are alike in many models."""
    found = [replace(settled(store, path), name=path.relative_to(staged).as_posix()) for path in _files(staged)]
    return tuple(sorted(found, key=lambda file: -file.size_bytes))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _merged(*parts: Mapping[str, str]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


def _ignore(_: str) -> None:
    pass
