"""Arguments that a person adds to llama.cpp for one model: which may be, and what they mean to the bundled engine.

They are written as `llama-server` knows them. A native one gets them as they are, unless they would open a file or a
port, fetch something, or change what the service itself decides. The bundled one has no command line: the arguments in
the table below are set in its parameters, and others are refused by name.

The refusal for native servers goes by the words a flag is made of and not by a list of flags: which flags there are
changes with every build of llama.cpp, and a new one that reads a file has `file`, `path` or `dir` in its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localfoundry.errors import InvalidSetting

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


@dataclass(frozen=True, slots=True)
class Argument:
    """One flag: its short form, the parameter it sets, and how its value is read; without `value` it is a switch."""

    short: str
    parameter: str
    value: Callable[[str], str] | None = None
    switched: str = ""


def _whole(low: int, high: int) -> Callable[[str], str]:
    def value(text: str) -> str:
        if not re.fullmatch(r"-?\d{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return text

    return value


def _real(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ValueError("a number")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("the name of a model")
    return text


def _one_of(prefix: str, **words: str) -> Callable[[str], str]:
    """Words of the command line and the names of the engine's constants, without their prefix."""

    def value(text: str) -> str:
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return prefix + words[text]

    return value


_cache_type = _one_of("GGML_TYPE_", **{name: name.upper() for name in _CACHE_TYPES})
_flash = _one_of("LLAMA_FLASH_ATTN_TYPE_", on="ENABLED", off="DISABLED", auto="AUTO")
_numa = _one_of("GGML_NUMA_STRATEGY_", distribute="DISTRIBUTE", isolate="ISOLATE", numactl="NUMACTL")
# What was said before is looked up, or a smaller model drafts. Kinds that read a file or need a model made for it are
# left out.
_GUESSERS = ("none", "draft-simple", "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod")
_speculation = _one_of("COMMON_SPECULATIVE_TYPE_", **{name: name.upper().replace("-", "_") for name in _GUESSERS})
# The value is a model's name, not the file that llama-server wants: the service puts that in (`service/drafts.py`).
DRAFT_MODEL = "--spec-draft-model"
_rope = _one_of("LLAMA_ROPE_SCALING_TYPE_", none="NONE", linear="LINEAR", yarn="YARN")

BUNDLED: dict[str, Argument] = {
    "--threads": Argument("-t", "cpuparams.n_threads", _whole(1, 1024)),
    "--threads-batch": Argument("-tb", "cpuparams_batch.n_threads", _whole(1, 1024)),
    "--batch-size": Argument("-b", "n_batch", _whole(1, 1_000_000)),
    "--ubatch-size": Argument("-ub", "n_ubatch", _whole(1, 1_000_000)),
    "--cache-type-k": Argument("-ctk", "cache_type_k", _cache_type),
    "--cache-type-v": Argument("-ctv", "cache_type_v", _cache_type),
    "--flash-attn": Argument("-fa", "flash_attn_type", _flash),
    "--mlock": Argument("", "load_mode", switched="LLAMA_LOAD_MODE_MMAP_MLOCK"),
    "--no-mmap": Argument("", "load_mode", switched="LLAMA_LOAD_MODE_NONE"),
    "--numa": Argument("", "numa", _numa),
    "--rope-scaling": Argument("", "rope_scaling_type", _rope),
    "--rope-freq-base": Argument("", "rope_freq_base", _real),
    "--rope-freq-scale": Argument("", "rope_freq_scale", _real),
    "--yarn-orig-ctx": Argument("", "yarn_orig_ctx", _whole(0, 10_000_000)),
    "--n-predict": Argument("-n", "n_predict", _whole(-1, 10_000_000)),
    "--keep": Argument("", "n_keep", _whole(-1, 10_000_000)),
    "--cache-reuse": Argument("", "n_cache_reuse", _whole(0, 10_000_000)),
    "--slot-prompt-similarity": Argument("-sps", "slot_prompt_similarity", _real),
    "--n-gpu-layers": Argument("-ngl", "n_gpu_layers", _whole(-1, 10_000)),
    "--no-kv-offload": Argument("-nkvo", "no_kv_offload", switched="true"),
    "--no-warmup": Argument("", "warmup", switched="false"),
    "--spec-type": Argument("", "speculative.types", _speculation),
    DRAFT_MODEL: Argument("", "speculative.draft.mparams.path", _text),
    "--spec-draft-n-max": Argument("", "speculative.draft.n_max", _whole(1, 64)),
    "--spec-draft-n-min": Argument("", "speculative.draft.n_min", _whole(0, 64)),
    "--spec-draft-p-min": Argument("", "speculative.draft.p_min", _real),
    "--spec-ngram-simple-size-n": Argument("", "speculative.ngram_simple.size_n", _whole(1, 1024)),
    "--spec-ngram-simple-size-m": Argument("", "speculative.ngram_simple.size_m", _whole(1, 1024)),
    "--spec-ngram-mod-n-match": Argument("", "speculative.ngram_mod.n_match", _whole(1, 1024)),
    "--spec-ngram-mod-n-min": Argument("", "speculative.ngram_mod.n_min", _whole(0, 1024)),
    "--spec-ngram-mod-n-max": Argument("", "speculative.ngram_mod.n_max", _whole(1, 1024)),
    "--swa-full": Argument("", "swa_full", switched="true"),
}
_LONG = {argument.short: flag for flag, argument in BUNDLED.items() if argument.short}

_OURS = {
    "--ctx-size": "the setting models.NAME.context",
    "-c": "the setting models.NAME.context",
    "--parallel": "the setting models.NAME.parallel",
    "-np": "the setting models.NAME.parallel",
}
_FILES = {
    "file", "path", "dir", "url", "repo", "hf", "docker", "model", "models", "lora", "mmproj", "vector", "lookup",
    "preset", "draft", "spec", "default", "image", "audio", "video", "media", "prompt", "output", "save", "log", "list",
}  # fmt: skip
_DOORS = {
    "host", "port", "reuse", "ssl", "api", "key", "token", "rpc", "cors", "ui", "webui", "mcp", "tools", "agent",
    "server",
}  # fmt: skip
_DECIDED = {
    "alias", "props", "slots", "metrics", "sleep", "jinja", "embedding", "embeddings", "reranking", "rerank", "fit",
    "verbose", "verbosity", "shift", "completion",
}  # fmt: skip
_REFUSED_WORDS = _FILES | _DOORS | _DECIDED


def native(arguments: Sequence[str], model: str) -> list[str]:
    """The arguments for a native `llama-server`, as they are. Raises InvalidSetting naming one that may not be."""
    for word in arguments:
        if _is_flag(word):
            _refuse_ours(word, model)
            if not word.startswith("--") and word not in _LONG:
                raise _wrong(model, f"{word} is not a short flag that is known here", "write its long form")
    return list(arguments)


def bundled(arguments: Sequence[str], model: str) -> list[str]:
    """The arguments as `PARAMETER=VALUE` for the bundled worker. Raises InvalidSetting naming what cannot be used."""
    words = list(arguments)
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if _is_flag(word):
            _refuse_ours(word, model)
        flag, equals, rest = word.partition("=")
        argument = BUNDLED.get(_LONG.get(flag, flag))
        if argument is None:
            possible = ", ".join(BUNDLED)
            raise _wrong(model, f"the bundled engine has no argument {flag!r}", f"possible: {possible}")
        if argument.value is None:
            other = found.get(argument.parameter, argument.switched)
            # `--mlock` and `--no-mmap` share a parameter: both together are locked and not mapped
            found[argument.parameter] = argument.switched if other == argument.switched else "LLAMA_LOAD_MODE_MLOCK"
            continue
        given = rest if equals else (words.pop(0) if words else "")
        try:
            found[argument.parameter] = argument.value(given)
        except ValueError as exc:
            raise _wrong(model, f"{flag} {given!r} is not valid: expected {exc}") from None
    return [f"{parameter}={value}" for parameter, value in found.items()]


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not _NUMBER.fullmatch(word)


def _refuse_ours(word: str, model: str) -> None:
    flag = word.partition("=")[0].lower()
    if flag in _OURS:
        raise _wrong(model, f"{flag} is decided by {_OURS[flag]}")
    if flag not in BUNDLED and _REFUSED_WORDS & set(re.split(r"[-_]+", flag.strip("-"))):
        raise _wrong(model, f"{flag} may not be used: it opens files or ports, fetches, or is the service's own")


def _wrong(model: str, what: str, hint: str | None = None) -> InvalidSetting:
    return InvalidSetting(f"engineArguments of {model}: {what}", hint=hint or "foundry config list", param="model")
