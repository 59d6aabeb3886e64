"""Which files of a repository make a model: pure, from their names.

The rules follow what people type and what hubs hold. Where several files would do, the choice and what else there was
are notes for the person, never silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from localfoundry.errors import NotAModel, NotRunnable, SourceRefused

_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q5_K_M", "Q8_0", "Q6_K", "Q5_0", "Q3_K_M", "F16", "BF16", "F32")
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q|TQ)[1-8](?:_[A-Z0-9]+)*|BF16|FP16|F16|F32|MXFP4)(?![A-Za-z0-9])", re.IGNORECASE
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
_BESIDE_WEIGHTS = {
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "chat_template.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
}  # fmt: skip
_DESCRIPTIONS = {"config.json", "tokenizer_config.json", "chat_template.jinja"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True, slots=True)
class Choice:
    """Paths in the repository, in order, the folder they are relative to, and what to tell the person."""

    paths: tuple[str, ...]
    base: str
    format: str
    quantization: str | None = None
    notes: tuple[str, ...] = ()


def choose(repo: str, names: Iterable[str], path: str | None = None, quantization: str | None = None) -> Choice:
    """The files to fetch. Raises SourceRefused (no such file), NotRunnable (no format we run), NotAModel (pickles)."""
    everything = sorted(names)
    if path is not None:
        return _by_path(repo, everything, path)
    models = _models(everything)
    if quantization is not None:
        return _by_quantization(repo, models, quantization)
    if models:
        return _preferred(models)
    return _onnx(repo, everything) or _nothing(repo, everything)


def safetensors(names: Iterable[str], path: str | None = None) -> Choice | None:
    """The weights and what describes them, for looking at: no engine here runs them. None where there are none.

    One model per folder: the repository's own folder, or the one that holds `path`.
    """
    everything = sorted(names)
    base = PurePosixPath(path).parent.as_posix() if path else "."
    inside = [n for n in everything if PurePosixPath(n).parent.as_posix() == base]
    weights = [n for n in inside if n.lower().endswith(".safetensors") and path in (None, n)]
    described = [n for n in inside if PurePosixPath(n).name in _DESCRIPTIONS]
    return Choice((*weights, *described), "" if base == "." else base, "safetensors") if weights else None


def checkpoint_files(names: Iterable[str]) -> tuple[str, ...]:
    """Of a repository's own folder what a compiler reads: weights as safetensors, configuration, tokenizer.

    Weights that are there twice, once for the authors' own tools (`consolidated.safetensors`), count once.
    """
    everything = sorted(names)
    weights = [n for n in everything if n.endswith(".safetensors") and "/" not in n]
    plain = [n for n in weights if n.startswith("model")] or weights
    return (*plain, *(n for n in everything if n in _BESIDE_WEIGHTS))


def quantization_of(name: str) -> str | None:
    """`Q4_K_M` of `model-q4_k_m.gguf`; None where the name does not tell."""
    found = _QUANTIZATION.findall(PurePosixPath(name).name)
    return str(found[-1]).upper() if found else None


def model_stem(path: str) -> str:
    """The file's name without folder, part number and ending."""
    name = _SPLIT.sub("", PurePosixPath(path).name)
    return re.sub(r"\.(gguf|fake\.json)$", "", name, flags=re.IGNORECASE)


def _models(names: list[str]) -> dict[str, tuple[str, ...]]:
    """GGUF models by name, each with its parts in order; a split model counts once. Projectors are none."""
    models: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name.lower().endswith(".gguf") and "mmproj" not in name.lower():
            whole = _SPLIT.sub("", name)
            models[whole] = (*models.get(whole, ()), name)
    return models


def _choice(whole: str, parts: tuple[str, ...], notes: tuple[str, ...] = ()) -> Choice:
    numbered = _SPLIT.search(parts[0])
    if numbered and len(parts) != int(numbered[2]):
        raise SourceRefused(f"{whole} is split into {int(numbered[2])} parts, and {len(parts)} of them are there")
    base = PurePosixPath(parts[0]).parent.as_posix()
    return Choice(parts, "" if base == "." else base, "gguf", quantization_of(whole), notes)


def _by_path(repo: str, names: list[str], path: str) -> Choice:
    found = next((n for n in names if n == path), None) or next((n for n in names if n.lower() == path.lower()), None)
    inside = [n for n in names if n.startswith(path.rstrip("/") + "/")]
    if found is not None and found.lower().endswith(".gguf"):
        whole = _SPLIT.sub("", found)
        return _choice(whole, tuple(n for n in names if _SPLIT.sub("", n) == whole))
    if inside and (choice := _onnx(repo, inside)):
        return choice
    if inside and _models(inside):
        return _preferred(_models(inside))
    if found is None and not inside:
        raise SourceRefused(f"{repo} has no file {path}", hint=_has(names))
    if found is not None and PurePosixPath(found).name == "genai_config.json":
        folder = found.removesuffix("genai_config.json")
        choice = _onnx(repo, [n for n in names if n.startswith(folder)])
        if choice:
            return choice
    return _nothing(repo, [found] if found else inside)


def _by_quantization(repo: str, models: dict[str, tuple[str, ...]], quantization: str) -> Choice:
    wanted = quantization.lower()
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])")
    exact = [w for w in models if (quantization_of(w) or "").lower() == wanted]
    fitting = exact or [w for w in models if pattern.search(w.lower())]
    if not fitting:
        have = ", ".join(sorted({quantization_of(w) or PurePosixPath(w).name for w in models})) or "none as GGUF"
        raise SourceRefused(f"{repo} has no quantization {quantization}", hint=f"it has: {have}")
    chosen = min(fitting, key=lambda w: (len(w), w))
    notes = _others(chosen, fitting) if len(fitting) > 1 else ()
    return _choice(chosen, models[chosen], notes)


def _preferred(models: dict[str, tuple[str, ...]]) -> Choice:
    def rank(whole: str) -> tuple[int, int, str]:
        quantization = quantization_of(whole)
        place = _PREFERRED.index(quantization) if quantization in _PREFERRED else len(_PREFERRED)
        return place, len(whole), whole

    chosen = min(models, key=rank)
    return _choice(chosen, models[chosen], _others(chosen, list(models)) if len(models) > 1 else ())


def _others(chosen: str, everything: list[str]) -> tuple[str, ...]:
    rest = [quantization_of(w) or PurePosixPath(w).name for w in everything if w != chosen]
    return (f"chosen: {PurePosixPath(chosen).name}; also there: {', '.join(sorted(set(rest)))}",)


def _onnx(repo: str, names: list[str]) -> Choice | None:
    """A folder of ONNX Runtime GenAI: what stands beside and below its `genai_config.json`."""
    folders = [n.removesuffix("genai_config.json") for n in names if n.split("/")[-1] == "genai_config.json"]
    if not folders:
        return None
    chosen = min(folders, key=lambda f: ("cpu" not in f.lower(), "int4" not in f.lower(), len(f), f))
    paths = tuple(n for n in names if n.startswith(chosen) and not n.lower().endswith(PICKLES))
    notes = (f"chosen: {chosen or '.'}; also there: {', '.join(f for f in folders if f != chosen)}",)
    return Choice(paths, chosen.rstrip("/"), "onnx", None, notes if len(folders) > 1 else ())


def _nothing(repo: str, names: list[str]) -> Choice:
    if any(n.endswith(".safetensors") for n in names):
        raise NotRunnable(
            f"{repo} holds safetensors, which no engine here runs",
            hint=f"foundry model download hf-quantized:{repo} takes a GGUF made from it",
        )
    if any(n.lower().endswith(PICKLES) for n in names):
        raise NotAModel(
            f"{repo} holds only pickle files, which run code when they are loaded",
            hint=f"foundry model download hf-quantized:{repo} takes a GGUF made from it",
        )
    raise NotAModel(f"{repo} holds no GGUF file and no ONNX Runtime GenAI folder", hint=_has(names))


def _has(names: list[str]) -> str:
    shown = [n for n in names if n.lower().endswith((".gguf", ".onnx", ".json", ".safetensors"))][:8] or names[:8]
    return f"it has: {', '.join(shown)}" if shown else "it is empty"
