"""ONNX Runtime for folders of ONNX Runtime GenAI, on the processor: a worker of our own.

Which graphs it can run shows when one is loaded; what the folder's configuration says is looked at before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

from localfoundry.config import Settings
from localfoundry.engines import onnx_arguments, worker_words
from localfoundry.engines.base import LoadAccount, LoadRequest, ModelFacts, WorkerCommand
from localfoundry.errors import DiskError, NotAModel
from localfoundry.fit.context import largest_that
from localfoundry.formats.onnx import OnnxFolder, read_onnx_folder
from localfoundry.store.manifest import Manifest

_LIBRARIES = ("onnxruntime", "onnx", "llguidance")
_NO_MEMORY = re.compile(r"bad_alloc|out of memory|[Cc]annot allocate|[Ff]ailed to allocate")

# Through measured loads of the starter model in 4 and 8 bits, contexts of 2,048 tokens, ONNX Runtime 1.32: 349 MB where
# this says 344, and 461 MB where it says 552 (there the embeddings stay in the file, and few of them are read).
_PROCESS_BYTES = 100_000_000  # Python, the library's code, its threads
_BYTES_PER_TOKEN = 1_000  # of the vocabulary: the tokenizer, its trie, the pieces
_WEIGHT_COPIES = 1.15  # weights are laid out anew for the processor; those that need it not stay mapped
_VALUE_BYTES = 4  # of keys and values; graphs for the processor have them in float32
_UNKNOWN_CACHE_SHARE = 0.25  # of the weights, for 8,192 tokens, where nothing tells the shape


class Onnx:
    """See the module."""

    name = "onnx"
    formats = frozenset({"onnx"})
    devices = frozenset({"CPU"})
    heartbeat = "/health"  # answered by the loop that computes, between two batches
    saves_state = False
    scoring: tuple[str, ...] | None = None

    def missing(self) -> str | None:
        if any(importlib.util.find_spec(library) is None for library in _LIBRARIES):
            return "not installed: pip install 'localfoundry[onnx]'"
        return None

    def takes(self, facts: ModelFacts) -> str | None:
        if "chat" not in facts.tasks:
            return f"it does not run models for {', '.join(facts.tasks)}"
        return None

    def memory(
        self, manifest: Manifest, model_path: Path, context: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> dict[str, int]:
        """Once every place of the context has been used; a row of the batch takes memory as it grows."""
        return {"cpu": _fixed(manifest, model_path) + _cache_bytes(manifest, model_path, context)}

    def largest_context(
        self, manifest: Manifest, model_path: Path, room_bytes: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> int | None:
        if not manifest.context_length:
            return None
        fixed = _fixed(manifest, model_path)
        return largest_that(
            lambda context: fixed + _cache_bytes(manifest, model_path, context) <= room_bytes, manifest.context_length
        )

    def short_of_memory(self, log: str) -> bool:
        return _NO_MEMORY.search(log) is not None

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        argv = [sys.executable, "-m", "localfoundry.workers.onnx", "--model", str(request.model_path)]
        argv += ["--alias", request.model_id, "--device", request.device]
        argv += ["--context", str(request.context), "--parallel", str(request.parallel)]
        argv += ["--socket", request.endpoint.path] if request.endpoint.path else ["--port", str(request.endpoint.port)]
        argv += onnx_arguments.words(request.engine_arguments, request.model_id)
        return WorkerCommand(tuple(argv), self.name, request.device, self._version())

    def check_arguments(self, arguments: tuple[str, ...], model: str, settings: Settings) -> None:
        onnx_arguments.words(arguments, model)

    def version(self, settings: Settings) -> str:
        return self._version()

    @staticmethod
    def _version() -> str:
        for library in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"):
            try:
                return f"onnxruntime {importlib.metadata.version(library)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return "unknown"

    def account(self, log: str) -> LoadAccount:
        return worker_words.account(log)

    def complaint(self, log: str) -> str:
        return worker_words.complaint(log)


def fixed_bytes(vocabulary: int, weights_bytes: int) -> int:
    """Bytes of a load before any token is kept."""
    return int(_PROCESS_BYTES + _BYTES_PER_TOKEN * vocabulary + _WEIGHT_COPIES * weights_bytes)


def cache_bytes(kept: int, context: int) -> int:
    """`kept`: keys and values of one token, in all layers."""
    return kept * _VALUE_BYTES * context


def _fixed(manifest: Manifest, model_path: Path) -> int:
    folder = _folder(model_path)
    return fixed_bytes((folder.vocab_size if folder else None) or 0, _weights(manifest))


def _cache_bytes(manifest: Manifest, model_path: Path, context: int) -> int:
    folder = _folder(model_path)
    if folder is None or not (folder.layers and folder.kv_heads and folder.head_dim):
        return int(_weights(manifest) * _UNKNOWN_CACHE_SHARE * context / 8192)
    return cache_bytes(2 * folder.layers * folder.kv_heads * folder.head_dim, context)


def _folder(model_path: Path) -> OnnxFolder | None:
    try:
        return read_onnx_folder(model_path)
    except (NotAModel, DiskError):
        return None  # gone or damaged: the load will tell


def _weights(manifest: Manifest) -> int:
    return sum(file.size_bytes for file in manifest.files)
