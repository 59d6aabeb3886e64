"""Tokens drawn from logits: each option keeps to the distribution that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.workers.drawing import Draws, logprobs
from localfoundry.workers.generation import Sampling

PLAIN = Sampling(10, temperature=1.0, seed=5)
LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], np.float32))


def drawn(sampling: Sampling, count: int = 2000, logits: np.ndarray = LOGITS) -> np.ndarray:
    """How often each token comes, each time as the first of an answer."""
    tokens = [Draws(replace(sampling, seed=seed), (), ()).draw(logits.copy()) for seed in range(count)]
    return np.bincount(tokens, minlength=logits.size) / count


def test_without_options_tokens_come_as_often_as_is_probable() -> None:
    np.testing.assert_allclose(drawn(PLAIN), np.exp(LOGITS), atol=0.04)


def test_a_low_temperature_sharpens() -> None:
    sharper = np.exp(LOGITS / 0.5)
    np.testing.assert_allclose(drawn(replace(PLAIN, temperature=0.5)), sharper / sharper.sum(), atol=0.04)


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.6}, [0, 1]),
        ({"top_p": 0.5}, [0]),
        ({"min_p": 0.2}, [0, 1, 2]),
        ({"top_k": 1}, [0]),
        ({"top_p": 0.0}, [0]),
        ({"temperature": 0.0}, [0]),
        ({"top_k": 3, "min_p": 0.4}, [0, 1]),
        ({"top_k": 1000}, [0, 1, 2, 3, 4]),
    ],
)
def test_an_option_leaves_the_tokens_that_it_names(option: dict[str, float], kept: list[int]) -> None:
    share = drawn(replace(PLAIN, **option), 600)
    assert np.flatnonzero(share).tolist() == kept


def test_the_options_mean_a_share_of_the_probability_before_the_temperature() -> None:
    """As in llama.cpp: at a high temperature `top_p` keeps no more tokens than at a low one."""
    for temperature in (0.2, 3.0):
        share = drawn(replace(PLAIN, top_p=0.6, temperature=temperature), 600)
        assert np.flatnonzero(share).tolist() == ([0] if share[0] > 0.99 else [0, 1])


def test_penalties_take_from_what_was_said() -> None:
    flat = np.zeros(4, np.float32)
    draws = Draws(replace(PLAIN, temperature=0.0, presence_penalty=1.0), (0,), ())
    assert sorted(draws.draw(flat.copy()) for _ in range(4)) == [0, 1, 2, 3]
    repeated = Draws(replace(PLAIN, temperature=0.0, repeat_penalty=2.0), (0,), ())
    assert repeated.draw(np.array([1.0, 0.6, -5.0, -5.0], np.float32)) == 1
    often = Draws(replace(PLAIN, temperature=0.0, frequency_penalty=0.5), (), ())
    assert [often.draw(np.array([1.2, 0.0], np.float32)) for _ in range(4)] == [0, 0, 0, 1]


def test_what_must_not_come_does_not() -> None:
    assert Draws(replace(PLAIN, temperature=0.0), (), (0,)).draw(LOGITS.copy()) == 1
    allowed = np.array([False, False, True, False, True])
    assert Draws(replace(PLAIN, temperature=0.0), (), ()).draw(LOGITS.copy(), allowed) == 2


def test_log_probabilities_sum_up_to_one_and_the_top_is_sorted() -> None:
    values, top = logprobs(LOGITS + 7, 3)
    np.testing.assert_allclose(values, LOGITS, atol=1e-6)
    assert [token for token, _ in top] == [0, 1, 2]
    assert logprobs(LOGITS, 0)[1] == []


@given(
    size=st.integers(1, 1500), top_k=st.integers(0, 50), top_p=st.floats(0.05, 1), min_p=st.floats(0, 0.9),
    seed=st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_a_draw_is_one_of_those_that_are_left(size: int, top_k: int, top_p: float, min_p: float, seed: int) -> None:
    """Against the same three steps written with full sorts; and the same seed draws the same."""
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    sampling = replace(PLAIN, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    token = Draws(sampling, (), ()).draw(logits.copy())
    assert token == Draws(sampling, (), ()).draw(logits.copy())
    order = np.argsort(-logits, kind="stable")
    order = order[:top_k] if top_k else order
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    before = np.concatenate([[0.0], weights.cumsum()[:-1]]) / weights.sum()
    left = order[(before < top_p + 1e-6) & (weights >= min_p - 1e-6)]
    assert token in left
