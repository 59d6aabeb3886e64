"""One token drawn from the logits of a model, for backends whose library leaves that to us. numpy only.

In llama.cpp's order, so that a request means the same with every engine: biases and penalties, then `top_k`, `top_p`
and `min_p` on probabilities at temperature 1, and the temperature last. A draw depends on the seed, the place in the
answer and the logits, and not on what else is computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from localfoundry.workers.generation import Sampling

_HEAD = 256  # of the most probable tokens nearly always hold `top_p`: they are sorted first, and more only where not
_BLOCK = 64


class Draws:
    """The choice of one request's tokens. `never`: tokens that must not come, such as ends that are to be ignored."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], never: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._greedy = sampling.temperature <= 0 or sampling.top_p <= 0 or sampling.top_k == 1
        self._never = list(never)
        self._bias_at = np.fromiter(sampling.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32)
        self._seen = set(prompt) if sampling.repeat_penalty != 1 else None
        self._counts: dict[int, int] = {}

    def draw(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> int:
        """A token; `logits` (float32, one for each token) are overwritten. `allowed`: which tokens a grammar takes."""
        self._adjust(logits)
        if allowed is not None:
            logits[~allowed] = -np.inf
        token = int(logits.argmax()) if self._greedy else self._sampled(logits)
        if self._seen is not None:
            self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _adjust(self, logits: np.ndarray) -> None:
        """Biases; `repeat_penalty` on what stands in prompt or answer; the other penalties on what the answer holds."""
        chosen = self._sampling
        if self._bias_at.size:
            logits[self._bias_at] += self._bias
        if self._seen:
            places = np.fromiter(self._seen, np.int64)
            values = logits[places]
            logits[places] = np.where(values > 0, values / chosen.repeat_penalty, values * chosen.repeat_penalty)
        if self._counts and (chosen.presence_penalty or chosen.frequency_penalty):
            places = np.fromiter(self._counts.keys(), np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            logits[places] -= chosen.presence_penalty + counts * chosen.frequency_penalty
        if self._never:
            logits[self._never] = -np.inf

    def _sampled(self, logits: np.ndarray) -> int:
        chosen = self._sampling
        places = _highest(logits, chosen.top_k) if 0 < chosen.top_k < logits.size else None
        values = logits if places is None else logits[places]
        if chosen.top_p < 1:
            kept = _nucleus(values, chosen.top_p)
            places, values = (kept if places is None else places[kept]), values[kept]
        if chosen.min_p > 0:
            kept = np.flatnonzero(values >= values.max() + np.log(chosen.min_p))
            places, values = (kept if places is None else places[kept]), values[kept]
        weights = np.exp((values - values.max()) / chosen.temperature, dtype=np.float64)
        sums = weights.cumsum()
        place = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        place = min(place, values.size - 1)
        return place if places is None else int(places[place])


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` highest values, highest first; the lower place first where values are the same."""
    found = np.arange(values.size) if count >= values.size else np.flatnonzero(values >= _bound(values, count))
    return np.asarray(found[np.argsort(-values[found], kind="stable")][:count])


def _bound(values: np.ndarray, count: int) -> float:
    """A value that at least `count` of them reach, and few more: a tenth of the time of a partition of them all.

    Among the highest values of blocks the count-th one is such a bound; few blocks tell nothing.
    """
    blocks = values.size // _BLOCK
    if count > blocks // 2:
        return float(np.partition(values, values.size - count)[values.size - count])
    tops = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return float(np.partition(tops, blocks - count)[blocks - count])


def _nucleus(values: np.ndarray, share: float) -> np.ndarray:
    """Places of the fewest values that together have at least `share` of the probability, highest first."""
    weights = np.exp(values - values.max(), dtype=np.float64)
    wanted = weights.sum() * share
    count = min(_HEAD, values.size)
    while True:
        places = _highest(values, count)
        sums = weights[places].cumsum()
        if sums[-1] >= wanted or count == values.size:
            return np.asarray(places[: int(np.searchsorted(sums, wanted)) + 1])
        count = min(8 * count, values.size)


def logprobs(logits: np.ndarray, top: int) -> tuple[Any, list[tuple[int, float]]]:
    """Natural logarithms of the probabilities before any sampling option, and the `top` most probable tokens."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    places = _highest(values, min(top, values.size)) if top else ()
    return values, [(int(place), float(values[place])) for place in places]
