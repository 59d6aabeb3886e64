"""What can be tried, as values: ways of loading a model, and options on top of them. Pure but for asking the engines.

A way is an engine with a file; options are words for that engine, one for each dimension. The whole space is their
product, and far too large to measure: `search.py` goes through it by files first and options one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from localfoundry.engines.llama_arguments import DRAFT_MODEL

LOSSY = frozenset({"KV cache", "precision"})  # dimensions that change what a model says; so do its file and its engine
SPECULATION = "speculation"
_DRAFTED = ("chat", "rewrite")  # purposes with one request at a time: a batch of many leaves nothing to guess with
_DRAFT_LENGTHS = (4, 12)  # tokens that are guessed at a time


class Option(msgspec.Struct, frozen=True):
    """One value in one dimension: the words for the engine, or how many requests it answers at once."""

    dimension: str
    value: str
    words: tuple[str, ...] = ()
    parallel: int | None = None

    @property
    def label(self) -> str:
        return f"{self.dimension} {self.value}"


class Setting(msgspec.Struct, frozen=True):
    """One way of loading: `version` is the id whose file runs, `file` what tables call that.

    `build`: of an engine that is here in several, by its name; None: it has one, or the one that the settings name.
    """

    engine: str
    version: str
    file: str
    arguments: tuple[str, ...] = ()  # a person's own, before those of the options
    parallel: int | None = None
    options: tuple[Option, ...] = ()
    build: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        return self.arguments + tuple(word for option in self.options for word in option.words)

    @property
    def slots(self) -> int | None:
        return next((o.parallel for o in self.options if o.parallel is not None), self.parallel)

    @property
    def label(self) -> str:
        engine = f"{self.engine} ({self.build})" if self.build else self.engine
        return ", ".join([f"{engine} {self.file}", *(option.label for option in self.options)])

    @property
    def changes_answers(self) -> frozenset[str]:
        """What in it can change answers: two settings that agree in this say the same, up to rounding.

        Builds of one engine should differ by rounding alone; one that is broken does not, and looking is cheap.
        """
        lossy = {option.label for option in self.options if option.dimension in LOSSY}
        if self.engine == "openvino" and self.slots == 1:
            lossy.add("one at a time")  # it computes in another arithmetic then
        return frozenset({f"{self.engine} {self.build}", self.version, *lossy})

    @property
    def plain(self) -> Setting:
        """One that says the same and guesses nothing ahead."""
        kept = tuple(option for option in self.options if option.dimension != SPECULATION)
        return msgspec.structs.replace(self, options=kept, parallel=self.slots)

    @property
    def bare(self) -> Setting:
        """Without any option."""
        return msgspec.structs.replace(self, options=())

    def plus(self, *options: Option) -> Setting:
        """With these options, each in place of the one of its dimension."""
        taken = {option.dimension for option in options}
        kept = tuple(option for option in self.options if option.dimension not in taken)
        return msgspec.structs.replace(self, options=kept + options)

    def without(self, dimension: str) -> Setting:
        return msgspec.structs.replace(self, options=tuple(o for o in self.options if o.dimension != dimension))


def options(
    setting: Setting, purpose: str, threads: Sequence[int], streams: int, accepts: Callable[[Setting], bool],
    drafts: Sequence[str] = (),
) -> list[Option]:  # fmt: skip
    """What to try on top of a setting for a purpose, the likeliest first, as far as its engine `accepts` the words.

    `threads`: counts to try (`thread_counts`); `streams`: requests that the purpose has at once; `drafts`: ids of
    models that could guess ahead for it. Options that the
    setting has already, or a person chose by an argument of the same name, are left out.
    """
    of_engine = {"llama.cpp": _llama, "openvino": _openvino, "onnx": _onnx}.get(setting.engine, _fake)
    found = of_engine(purpose, threads, streams)
    if setting.engine == "llama.cpp" and purpose in _DRAFTED:
        found = _drafts(drafts) + found if purpose == "chat" else found[:2] + _drafts(drafts) + found[2:]
    own = set(setting.arguments)
    return [
        option
        for option in found
        if option not in setting.options and not own.intersection(option.words) and accepts(setting.plus(option))
    ]


def _llama(purpose: str, threads: Sequence[int], streams: int) -> list[Option]:
    speculation = [
        Option(SPECULATION, kind, ("--spec-type", kind, *more))
        for kind, more in (
            ("ngram-simple", ("--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "24")),
            ("ngram-mod", ("--spec-ngram-mod-n-match", "12", "--spec-ngram-mod-n-min", "4")),
        )
    ]  # fmt: skip
    cache = [Option("KV cache", "q8_0", ("--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--flash-attn", "on"))]
    flash = [Option("flash attention", "off", ("--flash-attn", "off"))]  # on is what `auto` comes to
    batches = [
        Option("batch", str(size), ("--ubatch-size", str(size), "--batch-size", str(max(size, 2048))))
        for size in (1024, 256, 128)
    ]
    counts = [
        Option("threads", str(count), ("--threads", str(count), "--threads-batch", str(count))) for count in threads
    ]
    return {
        "chat": [*speculation, *counts, *flash, *cache],
        "rewrite": [*speculation, *counts, *flash, *cache],
        "long-prompt": [*batches, *counts, *flash, *cache],
        "throughput": [*counts, *_slots(streams), *flash, *cache, *batches[:2]],
        "low-memory": [*cache, *batches[1:], *_slots(1)],
    }[purpose]


def _drafts(ids: Sequence[str]) -> list[Option]:
    return [
        Option(
            SPECULATION,
            f"draft {draft} x {count}",
            (DRAFT_MODEL, draft, "--spec-type", "draft-simple", "--spec-draft-n-max", str(count)),
        )
        for draft in ids
        for count in _DRAFT_LENGTHS
    ]


def _openvino(purpose: str, threads: Sequence[int], streams: int) -> list[Option]:
    plain = Option("precision", "bf16", ("--precision", "bf16", "--dynamic-quantization", "0"))
    lookup = [Option(SPECULATION, f"prompt lookup {n}", ("--prompt-lookup", str(n)), parallel=1) for n in (5, 10)]
    cache = [Option("KV cache", kind, ("--cache-type", kind)) for kind in ("u8", "f16")]
    counts = [Option("threads", str(count), ("--threads", str(count))) for count in threads]
    batches = [Option("batch", str(size), ("--batch-size", str(size))) for size in (2048, 512)]
    return {
        "chat": [plain, *counts, *cache[:1], *lookup[:1]],
        "rewrite": [*lookup, plain, *counts],
        "long-prompt": [*batches, *counts, plain],
        "throughput": [*counts, *_slots(streams), *cache, plain],
        "low-memory": [*cache, *batches[1:]],
    }[purpose]


def _onnx(purpose: str, threads: Sequence[int], streams: int) -> list[Option]:
    return [Option("threads", str(count), ("--threads", str(count))) for count in threads]


def _fake(purpose: str, threads: Sequence[int], streams: int) -> list[Option]:
    return [
        Option("threads", "2", ("--threads", "2")),
        Option("batch", "256", ("--batch-size", "256")),
        Option("KV cache", "q8_0", ("--cache-type", "q8_0")),
        Option(SPECULATION, "ngram", ("--speculate", "ngram")),
    ]


def thread_counts(threads: int, cores: int) -> list[int]:
    """All of the machine's and half of them, without as many as it has cores, which is what engines take themselves."""
    return sorted({max(threads // 2, 1), threads} - {cores}, reverse=True)


def _slots(streams: int) -> list[Option]:
    counts = dict.fromkeys((streams, max(streams // 2, 1)))
    return [Option("slots", str(count), parallel=count) for count in counts]


def distinct(settings: Iterable[Setting]) -> list[Setting]:
    """Each way of loading once, in the order in which it first appears."""
    return list({(s.engine, s.build, s.version, s.words, s.slots): s for s in settings}.values())


def combined(setting: Setting, gains: Sequence[tuple[Option, float]]) -> Setting:
    """The setting with the best option of each dimension; `gains`: how many times better each alone made it."""
    best: dict[str, tuple[Option, float]] = {}
    for option, gain in gains:
        if gain > best.get(option.dimension, (option, 1.0))[1]:
            best[option.dimension] = option, gain
    return setting.plus(*(option for option, _ in best.values()))
