"""The OpenVINO worker: `openvino_genai.ContinuousBatchingPipeline` behind the HTTP layer of our own workers.

Loads a GGUF file (the library reads those of the Llama, Qwen2 and Qwen3 families itself) or an OpenVINO IR folder on
the processor, or on an Intel GPU or NPU. A device that is not there is an error that names those that are.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from localfoundry.workers import command_line, intel_devices, lifeline, limits, silence
from localfoundry.workers.generation import Finish, Grammar, Progress, Refused, Sampling
from localfoundry.workers.openvino_embeddings import Embedder
from localfoundry.workers.openvino_tokens import Tokens
from localfoundry.workers.prefixes import Prefixes

BLOCK = 32  # tokens; of the processor's plugin. The GPU's has 16, of which two hold as much
_SPARE_BLOCKS = 2  # a sequence that grows by a token is given its next block before it needs it
# Prompt tokens of one batch. Streams beside a prompt wait as long as a batch takes: a quarter of a second where a core
# computes so many tokens of a gigabyte of weights in that time, as was measured (AVX-512, f32). Parts of 128 cost a
# long prompt 7 % more processor time than parts of 256, parts of 64 a fifth more; larger ones save nothing.
_LEAST_BATCH, _MOST_BATCH = 64, 256
_TOKENS_PER_CORE = 58
_VOCABULARY = "vocab.gguf"  # of an IR folder made from a GGUF: its header, without tensors
_MOST_BEAMS = 64
_LOOKUP_NGRAM = 3  # tokens that have to be the same for what followed them to be guessed again, at most
_PLACE = re.compile(r"^Exception from |^Check '.*' failed at |[\w.]+\.(cpp|hpp|cc|h):\d+:?$")


class OpenVino:
    """See the module and `generation.Backend`."""

    name = "openvino"
    # The library gives the log probability of the chosen token, has beams that give those of others for one token
    # (not where it guesses tokens), and has no logit_bias.
    options = frozenset({
        "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "ignore_eos", "logprobs",
        "first_top_logprobs", "grammar",
    })  # fmt: skip

    def __init__(self, path: Path, context: int, parallel: int, device: str, properties: dict[str, Any]) -> None:
        """Load. Raises RuntimeError with the library's words. `properties` are the plugin's; `batch` and `lookup` ours:
        tokens of a batch, and how many a step guesses ahead from what the text has said before."""
        import numpy
        import openvino
        import openvino_genai

        self._numpy = numpy
        self._openvino = openvino
        self._genai = openvino_genai
        self.context = context
        self.parallel = parallel
        self._before = _private_bytes()
        properties = dict(properties)
        self._lookup = int(properties.pop("lookup", 0))
        if self._lookup:
            properties["prompt_lookup"] = True
            self.options -= {"first_top_logprobs"}
        remembers = properties.pop("prefix_cache", "YES") == "YES"
        if not remembers and not self._lookup:
            # Of what it takes from that cache the library tells no log probabilities, but whatever is in the memory
            # behind those that it has (2026.4).
            self.options |= {"echo"}
        blocks = -(-context // BLOCK) + _SPARE_BLOCKS
        batch = int(properties.pop("batch", 0)) or batch_tokens(_weight_bytes(path))
        scheduler = self._scheduler(blocks, batch, remembers)
        vocabulary = path / _VOCABULARY
        if vocabulary.is_file():
            tokenizer = openvino_genai.Tokenizer(str(vocabulary))
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(path), tokenizer, scheduler, device, **properties
            )
        else:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(path), scheduler, device, properties)
        tokenizer = self._pipeline.get_tokenizer()
        self.template: str | None = tokenizer.get_original_chat_template() or None
        self._tokens = Tokens(tokenizer, context)
        self.vocabulary = self._tokens.vocabulary(self._pipeline.get_config().stop_token_ids)
        self._prefixes = Prefixes(BLOCK, max(blocks - parallel, 1) if remembers else 0)
        self._handles: dict[int, Any] = {}
        self._scores: dict[int, list[float]] = {}  # log probabilities of prompts' tokens, as far as they are computed
        self._cached: dict[int, int] = {}
        self._warm_up()

    def _warm_up(self) -> None:
        """One token: kernels are made and the cache is taken while the model loads, and not for the first request."""
        self.start(0, [0], Sampling(max_tokens=2, temperature=0, ignore_eos=True))
        while self.busy:
            self.step()

    def _scheduler(self, blocks: int, batch: int, remembers: bool) -> Any:
        config = self._genai.SchedulerConfig()
        config.num_kv_blocks = blocks
        config.max_num_batched_tokens = batch
        config.max_num_seqs = self.parallel
        config.enable_prefix_caching = remembers
        config.dynamic_split_fuse = True
        return config

    def encode(self, text: str, special: bool) -> list[int]:
        return self._tokens.encode(text, special)

    # Generating

    def start(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        tokens = self._openvino.Tensor(self._numpy.array([prompt], dtype=self._numpy.int64))
        try:
            handle = self._pipeline.add_request(request, tokens, self._config(sampling))
        except RuntimeError as exc:
            raise Refused(f"OpenVINO does not take the request: {_words(exc)}") from exc
        self._handles[request] = handle
        if sampling.echo:
            self._scores[request] = []
        self._cached[request] = self._prefixes.begin(request, prompt)

    def cancel(self, request: int) -> None:
        self._handles.pop(request).cancel()
        self._scores.pop(request, None)
        self._prefixes.end(request)

    @property
    def busy(self) -> bool:
        return bool(self._pipeline.has_non_finished_requests())

    def step(self) -> list[Progress]:
        self._pipeline.step()
        news: list[Progress] = []
        for request, handle in self._handles.items():
            if handle.can_read():
                one = self._scored(request, handle) if request in self._scores else self._read(request, handle)
                if one is None:
                    continue
                news.append(one)
                self._prefixes.grow(request, one.tokens)
            elif handle.get_status() == self._genai.GenerationStatus.IGNORED:
                news.append(Progress(request, finish="memory"))
        for one in news:
            if one.finish is not None:
                del self._handles[one.request]
                self._scores.pop(one.request, None)
                self._prefixes.end(one.request)
        return news

    def _scored(self, request: int, handle: Any) -> Progress | None:
        """The library tells them batch by batch, the first token's as if it were certain."""
        scores = self._scores[request]
        [output] = handle.read().values()
        scores += output.generated_log_probs
        if self._FINISH[output.finish_reason.value] is None:
            return None
        return Progress(request, (), "length", scores[1:], cached=self._cached.pop(request))

    def _read(self, request: int, handle: Any) -> Progress:
        outputs = list(handle.read().values())
        cached = self._cached.pop(request, None)
        if len(outputs) == 1:
            output = outputs[0]
            finish = self._FINISH[output.finish_reason.value]
            tokens, logprobs = output.generated_ids, output.generated_log_probs
            if self._lookup and finish == "stop":
                tokens = self._up_to_end(tokens)
            return Progress(request, tokens, finish, logprobs[: len(tokens)], cached=cached)
        beams = sorted(((beam.generated_ids[-1], beam.score) for beam in outputs), key=lambda beam: -beam[1])
        (token, logprob), *_ = beams
        return Progress(request, (token,), "length", (logprob,), (beams,), cached)

    def _up_to_end(self, tokens: list[int]) -> list[int]:
        """Without those that were guessed right behind the end: the library hands them over as well."""
        ends = (place for place, token in enumerate(tokens, 1) if token in self.vocabulary.ends)
        return tokens[: next(ends, len(tokens))]

    _FINISH: tuple[Finish | None, ...] = (None, "stop", "length", "stop")  # by GenerationFinishReason

    def _config(self, sampling: Sampling) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.ignore_eos = sampling.ignore_eos
        if not sampling.ignore_eos:
            config.stop_token_ids = set(self.vocabulary.ends)
        config.repetition_penalty = sampling.repeat_penalty
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.logprobs = 0 if sampling.top_logprobs is None else 1
        config.echo = sampling.echo
        if self._lookup:
            config.num_assistant_tokens, config.max_ngram_size = self._lookup, _LOOKUP_NGRAM
        config.do_sample = sampling.temperature > 0 and sampling.top_p > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.min_p = sampling.min_p
            config.rng_seed = sampling.seed
        if sampling.top_logprobs:  # beams of one token are the most probable tokens, with their log probabilities
            config.num_beams = config.num_return_sequences = max(min(sampling.top_logprobs, _MOST_BEAMS), 2)
            config.length_penalty = 0.0
            config.ignore_eos = True
            config.stop_token_ids = set()
        if sampling.grammar is not None:
            config.structured_output_config = self._structured(sampling.grammar)
        return config

    def _structured(self, grammar: Grammar) -> Any:
        kinds = self._genai.StructuredOutputConfig
        config = kinds()
        if grammar.before or grammar.after:
            parts = [kinds.ConstString(grammar.before)] if grammar.before else []
            parts.append(kinds.JSONSchema(grammar.schema))
            parts += [kinds.ConstString(grammar.after)] if grammar.after else []
            config.compound_grammar = kinds.Concat(*parts)
        else:
            config.json_schema = grammar.schema
        return config

    def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        raise Refused("this model, as OpenVINO has loaded it, does not support embeddings")

    def account(self) -> dict[str, int]:
        """Bytes by purpose: the cache as the library tells it, and what the process has taken besides."""
        cache = int(self._pipeline.get_metrics().cache_size_in_bytes)
        return {"kv_cache": cache, "weights": max(_private_bytes() - self._before - cache, 0)}


def batch_tokens(weight_bytes: int, cores: int | None = None) -> int:
    """Prompt tokens of one batch for weights of that size; `cores`: of this process."""
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fitting = int(_TOKENS_PER_CORE * cores / (weight_bytes / 1e9))
    return max(_LEAST_BATCH, min(fitting // BLOCK * BLOCK, _MOST_BATCH))


def _weight_bytes(path: Path) -> int:
    files = path.glob("*.bin") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) or 1


def _private_bytes() -> int:
    """Memory of this process alone; 0 where the system does not tell it so."""
    try:
        told = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", told, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _words(exc: Exception) -> str:
    """What the library says, without the places in its source from which it says it."""
    lines = [line.strip() for line in str(exc).splitlines()]
    return "; ".join(line for line in lines if line and not _PLACE.search(line))[:300] or type(exc).__name__


def main() -> None:
    lifeline.die_with_parent()
    lifeline.exit_when_stdin_closes()
    limits.apply()
    options = _arguments()
    started = time.perf_counter()
    backend = _loaded(options)
    command_line.tell_loaded(backend.account(), started)
    from localfoundry.workers import serving

    serving.run(backend, options.alias, _fingerprint(), options.socket, options.port)


def _loaded(options: argparse.Namespace) -> OpenVino | Embedder:
    silence.openvino()
    try:
        import openvino
        import openvino_genai  # noqa: F401
    except ImportError as exc:
        _fail(f"OpenVINO cannot be imported ({exc}): pip install 'localfoundry[openvino]'")
    devices = openvino.Core().available_devices
    if not any(device.partition(".")[0] == options.device.partition(".")[0] for device in devices):
        found = f"OpenVINO finds no device {options.device} here; it finds {', '.join(devices)}"
        _fail("; ".join(filter(None, (found, intel_devices.why_missing(options.device)))))
    path = Path(options.model)
    path = path.parent if path.suffix == ".xml" else path
    properties = defaults() if options.device == "CPU" else {}
    for argument in options.engine_argument:
        name, _, value = argument.partition("=")
        properties[name] = int(value) if value.isdecimal() else value
    try:
        if options.embeddings:
            return Embedder(path, options.context, options.device, properties)
        return OpenVino(path, options.context, options.parallel, options.device, properties)
    except MemoryError:
        _fail("out of memory")
    except Exception as exc:  # noqa: BLE001 the worker's top loop: bindings raise what they like
        _fail(_words(exc))


def _fail(words: str) -> NoReturn:
    print(f"error: {words}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def defaults() -> dict[str, Any]:
    """Properties of the processor's plugin that were measured to be better than its own.

    Threads that are bound to a core wait there for other programs: without that, eight streams beside a dozen busy
    processes were 1.3 times as fast.
    """
    return {"INFERENCE_PRECISION_HINT": "bf16" if _has_amx() else "f32", "ENABLE_CPU_PINNING": "NO"}


def _has_amx() -> bool:
    """Whether the processor multiplies bf16 in tiles. Without them f32 is faster (1.2 times with 8 streams), and truer:
    a KL divergence of 0.0011 to float32 instead of 0.0047."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _fingerprint() -> str:
    import openvino_genai

    return f"openvino-genai-{openvino_genai.__version__}"


def _arguments() -> argparse.Namespace:
    parser = command_line.parser("openvino")
    parser.add_argument("--engine-argument", action="append", default=[], metavar="PROPERTY=VALUE")
    parser.add_argument("--embeddings", action="store_true", help="the folder's model embeds, and writes no text")
    return parser.parse_args()


if __name__ == "__main__":
    main()
