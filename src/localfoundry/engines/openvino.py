"""OpenVINO for GGUF files of the families that its reader knows, and for OpenVINO IR folders: a worker of our own.

Which families those are is written down here from the library's source (2026.4, `src/cpp/src/gguf_utils`), because it
can only be asked by loading; a test loads one small file of each family and compares.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

from localfoundry.config import Settings
from localfoundry.engines import openvino_arguments, openvino_fit, openvino_mode, worker_words
from localfoundry.engines.base import LoadAccount, LoadRequest, ModelFacts, WorkerCommand
from localfoundry.errors import LoadFailed, NotAModel
from localfoundry.formats.split import read_model
from localfoundry.store.manifest import Manifest

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})  # of GGUF files; an IR folder is a graph and needs no list
_NO_MEMORY = re.compile(r"bad_alloc|out of memory|[Cc]annot allocate|failed to allocate", re.IGNORECASE)


class OpenVino:
    """See the module."""

    name = "openvino"
    formats = frozenset({"gguf", "openvino"})
    devices = frozenset({"CPU", "GPU", "NPU"})
    heartbeat = "/health"  # answered by the loop that computes, between two batches
    saves_state = False
    scoring: tuple[str, ...] | None = ("--prefix-cache", "NO")

    def missing(self) -> str | None:
        if importlib.util.find_spec("openvino_genai") is None:
            return "not installed: pip install 'localfoundry[openvino]'"
        return None

    def takes(self, facts: ModelFacts) -> str | None:
        if not {"chat", "embeddings"} & set(facts.tasks):
            return f"it does not run models for {', '.join(facts.tasks)}"
        if facts.format != "gguf":
            return None
        if "chat" not in facts.tasks:
            return f"it reads GGUF files of models that write text, not of those for {', '.join(facts.tasks)}"
        if facts.architecture is not None and facts.architecture not in ARCHITECTURES:
            return f"architecture {facts.architecture} is not known to openvino {self._version()}"
        return None

    def memory(
        self, manifest: Manifest, model_path: Path, context: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> dict[str, int]:
        return {"cpu": openvino_fit.memory(manifest, model_path, context, arguments)}

    def largest_context(
        self, manifest: Manifest, model_path: Path, room_bytes: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> int | None:
        return openvino_fit.largest_context(manifest, model_path, room_bytes, arguments)

    def short_of_memory(self, log: str) -> bool:
        return _NO_MEMORY.search(log) is not None

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        if request.model_path.suffix.lower() == ".gguf":
            _check_whole(request)
        argv = [sys.executable, "-m", "localfoundry.workers.openvino", "--model", str(request.model_path)]
        argv += ["--alias", request.model_id, "--device", request.device]
        argv += ["--context", str(request.context), "--parallel", str(request.parallel)]
        argv += ["--socket", request.endpoint.path] if request.endpoint.path else ["--port", str(request.endpoint.port)]
        chosen = openvino_arguments.properties(request.engine_arguments, request.model_id)
        openvino_arguments.check_use(chosen, request.model_id, request.tasks, request.parallel)
        mode = openvino_mode.mode_of(request, chosen)
        for name, value in (mode.properties | chosen).items():
            argv += ["--engine-argument", f"{name}={value}"]
        if "embeddings" in request.tasks:
            argv.append("--embeddings")
        reason = ", ".join(filter(None, (f"openvino-genai {self._version()}", mode.words)))
        return WorkerCommand(tuple(argv), "openvino", request.device, reason)

    def check_arguments(self, arguments: tuple[str, ...], model: str, settings: Settings) -> None:
        openvino_arguments.properties(arguments, model)

    def version(self, settings: Settings) -> str:
        return f"openvino-genai {self._version()}"

    @staticmethod
    def _version() -> str:
        try:
            return importlib.metadata.version("openvino-genai")
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def account(self, log: str) -> LoadAccount:
        return worker_words.account(log)

    def complaint(self, log: str) -> str:
        return worker_words.complaint(log)


def _check_whole(request: LoadRequest) -> None:
    """Raise LoadFailed for a file that is cut short or no model: the library reads what is not there as weights.

    For a tensor type that nobody here knows, its words are `unordered_map::at`.
    """
    try:
        header = read_model(request.model_path)
    except NotAModel as exc:
        what = f"{request.model_id}: the model is corrupted or incomplete: {exc.message}"
        raise LoadFailed(what, hint=f"foundry cache verify {request.model_id}", param="model") from exc
    strange = next((tensor for tensor in header.tensors if tensor.size_bytes is None), None)
    if strange is not None:
        what = f"{request.model_id}: tensor {strange.name[:100]} has type {strange.type}, which openvino does not read"
        raise LoadFailed(what, hint=f"foundry model info {request.model_id}", param="model")
