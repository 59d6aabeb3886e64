"""A version and its settings in the estimator's words: the shape of the file, and how llama.cpp would load it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from localfoundry import fit
from localfoundry.engines import llama_arguments
from localfoundry.errors import InvalidSetting
from localfoundry.formats.shape import ModelShape
from localfoundry.store.manifest import Manifest

_UNKNOWN_KV_SHARE = 0.25  # of the weights, for 8,192 tokens, where nothing tells the shape
_UNKNOWN_OVERHEAD = 0.15  # of the weights, for buffers
_PROCESS_BYTES = 80_000_000


def shape_of(manifest: Manifest, model_path: Path) -> ModelShape | None:
    """From the manifest, else from the file's header, else from the catalog's form of it."""
    found = manifest.shape or fit.of_file(model_path)
    if found is None and manifest.architecture is not None:
        return fit.of_catalog(manifest.architecture, _weight_bytes(manifest), manifest.quantization)
    return found


def guessed(manifest: Manifest, context: int) -> int:
    """Bytes for a model whose shape is not known, such as one in several parts: by the size of its files."""
    weights = _weight_bytes(manifest)
    return int(weights * (1 + _UNKNOWN_OVERHEAD + _UNKNOWN_KV_SHARE * context / 8192)) + _PROCESS_BYTES


def load_of(tasks: Sequence[str], context: int, parallel: int, arguments: tuple[str, ...] = ()) -> fit.Load:
    """How the model would be loaded; arguments that the estimate does not know, or that are wrong, change nothing."""
    said = _parameters(arguments)
    mode = said.get("load_mode", "")
    return fit.Load(
        context=context,
        parallel=parallel,
        cache_keys=_cache_type(said.get("cache_type_k")),
        cache_values=_cache_type(said.get("cache_type_v")),
        flash_attention=not said.get("flash_attn_type", "").endswith("DISABLED"),
        embeddings="embeddings" in tasks or "rerank" in tasks,
        batch=min(int(said.get("n_ubatch", 512)), int(said.get("n_batch", 2048))),
        isa="neon" if platform.machine().lower() in ("arm64", "aarch64") else "avx2",
        mapped=mode not in ("LLAMA_LOAD_MODE_NONE", "LLAMA_LOAD_MODE_MLOCK"),
        full_window=said.get("swa_full") == "true",
    )


def _parameters(arguments: tuple[str, ...]) -> dict[str, str]:
    try:
        settings = llama_arguments.bundled(arguments, "")
    except InvalidSetting:
        return {}  # the load itself refuses them, or a native engine knows more than the bundled one
    return dict(setting.split("=", 1) for setting in settings)


def _cache_type(said: str | None) -> str:
    return said.removeprefix("GGML_TYPE_").lower() if said else "f16"


def _weight_bytes(manifest: Manifest) -> int:
    return sum(f.size_bytes for f in manifest.files if f.name.lower().endswith(".gguf"))
