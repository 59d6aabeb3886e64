"""What is measured for a purpose, and the one figure that counts, larger is better. Pure.

`chat` and `rewrite` count whole answers: a setting that trades the first token for the others must not win by a half of
the truth. Times of an answer are scaled to one length, as the same prompt may be answered at two lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from localfoundry.bench.request import Sample
from localfoundry.config.profiles import PURPOSES
from localfoundry.errors import UsageError

ANSWER_TOKENS = 64
LONG_PROMPT, LOW_MEMORY = "long-prompt", "low-memory"


class Purpose(msgspec.Struct, frozen=True):
    """`scenario` at `streams` at once; `figure` makes one value of a round's requests, None where it cannot."""

    name: str
    what: str
    unit: str
    scenario: str
    streams: int
    figure: Callable[[Sequence[Sample]], float | None]
    max_tokens: int | None = None


def _answers_a_second(samples: Sequence[Sample]) -> float | None:
    """1 / (TTFT + 63 * ITL): answers of 64 tokens a second, one after the other."""
    [sample] = samples
    if sample.ttft_s is None:
        return None
    if sample.itl_s is None:  # all in one chunk: the whole request counts, by its tokens
        return (sample.completion_tokens or 0) / ANSWER_TOKENS / sample.latency_s or None
    return 1 / (sample.ttft_s + (ANSWER_TOKENS - 1) * sample.itl_s)


def _tokens_a_second(samples: Sequence[Sample]) -> float | None:
    """All output tokens / wall time of the round."""
    tokens = sum(sample.completion_tokens or 0 for sample in samples)
    wall_s = max(sample.done_s for sample in samples) - min(sample.sent_s for sample in samples)
    return tokens / wall_s or None


def _prompt_tokens_a_second(samples: Sequence[Sample]) -> float | None:
    [sample] = samples
    return sample.prefill_tps


_ALL = (
    Purpose("chat", "one conversation: first token and answer together", "answers/s", "chat", 1, _answers_a_second),
    Purpose(LONG_PROMPT, "prompts of about 1,900 tokens", "prompt tokens/s", "long-prompt", 1,
            _prompt_tokens_a_second, max_tokens=4),
    Purpose("throughput", "eight requests at once", "tokens/s", "chat", 8, _tokens_a_second),
    Purpose(LOW_MEMORY, "little memory", "answers/s", "chat", 1, _answers_a_second),
    Purpose("rewrite", "answers that repeat their prompt", "tokens/s", "rewrite", 1, _tokens_a_second),
)  # fmt: skip


def find(name: str) -> Purpose:
    """Raises UsageError naming those there are."""
    found = next((purpose for purpose in _ALL if purpose.name == name.strip().lower()), None)
    if found is None:
        raise UsageError(f"models are tuned for {', '.join(PURPOSES)}, not for {name[:50]!r}",
                         hint="foundry tune MODEL --for chat", param="for")  # fmt: skip
    return found
