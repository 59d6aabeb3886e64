"""How far an engine is from float32: the arithmetic against distributions that are known, and the reference's file."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from localfoundry.errors import BadReference, InvalidRequest
from localfoundry.quality import fidelity, probe, reference
from localfoundry.quality.fidelity import Estimate, Fidelity, Position
from localfoundry.quality.reference import Continuation, Packed, Reference, Row

WORDS = 200


def spread(seed: int, sharpness: float = 3.0) -> list[float]:
    """A distribution over a vocabulary of `WORDS` tokens."""
    draw = random.Random(seed)
    weights = [math.exp(draw.gauss(0, sharpness)) for _ in range(WORDS)]
    return [weight / sum(weights) for weight in weights]


def top(distribution: list[float], count: int) -> dict[int, float]:
    likeliest = sorted(range(WORDS), key=lambda token: -distribution[token])[:count]
    return {token: math.log(distribution[token]) for token in likeliest}


def row_of(distribution: list[float], target: int = 0, count: int = 64) -> Row:
    known = top(distribution, count)
    tail = 1 - sum(math.exp(value) for value in known.values())
    return Row(0, 1, tuple(known), tuple(known.values()), tail, target, math.log(distribution[target]))


def divergence(old: list[float], new: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(old, new, strict=True))


def test_a_distribution_does_not_differ_from_itself() -> None:
    same = spread(1)
    found = fidelity.compare(row_of(same), top(same, 64))
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert (found.top1, found.log_ratio) == (1.0, pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize("seed", range(20))
def test_merged_cells_never_say_more_than_the_whole_vocabulary(seed: int) -> None:
    old, other = spread(seed), spread(seed + 100, 1.0)
    mixed = [p * q for p, q in zip(old, other, strict=True)]
    new = [value / sum(mixed) for value in mixed]
    whole = divergence(old, new)
    few, more = (fidelity.compare(row_of(old, count=n), top(new, n)).kl for n in (8, 64))
    assert 0 <= few <= whole + 1e-9 and 0 <= more <= whole + 1e-9
    assert more > 0.5 * whole, "with many tokens little is lost"


def test_the_token_that_follows_counts_with_all_others_where_it_is_not_likely() -> None:
    old, new = spread(1), spread(2)
    rare = min(range(WORDS), key=lambda token: old[token])
    found = fidelity.compare(row_of(old, target=rare), top(new, 64))
    assert math.isfinite(found.log_ratio)


def test_tokens_that_tie_share_the_first_place() -> None:
    row = Row(0, 1, (7, 8), (math.log(0.6), math.log(0.3)), 0.1, 7, math.log(0.6))
    tied = {7: math.log(0.4), 8: math.log(0.4), 9: math.log(0.1)}
    assert fidelity.compare(row, tied).top1 == 0.5
    assert fidelity.compare(row, {8: math.log(0.5), 7: math.log(0.4)}).top1 == 0.0


def test_an_answer_agrees_up_to_the_first_other_token() -> None:
    wanted = ("The", "The sky", "The sky is", "The sky is blue")
    assert fidelity.agreeing(wanted, "The sky is blue and") == 4
    assert fidelity.agreeing(wanted, "The sky was") == 2
    assert fidelity.agreeing(wanted, "") == 0


def test_a_summary_holds_means_with_intervals_over_chunks() -> None:
    positions = [Position(chunk, 0.01 * (chunk + 1), 1.0, 0.001) for chunk in range(12) for _ in range(4)]
    found = fidelity.summary(positions, [1.0, 0.5])
    assert found.kl is not None and found.kl.value == pytest.approx(0.065)
    assert found.kl.low < 0.055 and found.kl.high > 0.075
    assert found.perplexity == Estimate(*(pytest.approx(math.exp(0.001)),) * 3)
    assert (found.identical_answers, found.answers, found.within) == (1, 2, True)


@pytest.mark.parametrize(
    ("perplexity", "top1", "within"),
    [
        ((1.002, 0.998, 1.006), 0.97, True),
        ((1.2, 1.17, 1.22), 0.97, False),
        ((1.008, 0.995, 1.02), 0.97, None),
        ((1.0, 0.999, 1.001), 0.7, False),
        (None, None, None),
    ],
)
def test_what_is_within_a_percent(
    perplexity: tuple[float, float, float] | None, top1: float | None, within: bool | None
) -> None:
    found = Fidelity(
        positions=1,
        perplexity=perplexity and Estimate(*perplexity),
        top1=None if top1 is None else Estimate(top1, top1 - 0.02, top1 + 0.02),
    )
    assert found.within is within


def test_what_gives_no_log_probabilities_has_answers_only() -> None:
    found = fidelity.summary([], [1.0], "the engine has none")
    assert found.kl is None and found.perplexity is None and found.greedy is not None
    assert found.unavailable == "the engine has none"


# The reference


def packed(**changes: object) -> Packed:
    rows, count = 2, 3
    fields: dict[str, object] = {
        "source_sha256": ("a" * 64,),
        "tokenizer_sha256": "b" * 64,
        "model": "tiny",
        "made_with": {},
        "chunks": ((1, 2, 3, 4),),
        "first": 2,
        "top": count,
        "ids": struct.pack(f"<{rows * count}I", 5, 6, 7, 8, 9, 10),
        "logprobs": struct.pack(f"<{rows * count}e", -0.5, -1.5, -2.5, -0.25, -3, -4),
        "tail": struct.pack("<2f", 0.1, 0.2),
        "target": struct.pack("<2f", -0.5, -6),
        "greedy": (Continuation((1,), (2,), ("two",)),),
    }
    return Packed(**(fields | changes))  # type: ignore[arg-type]


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tiny.reference"
    reference.write(path, packed())
    found = reference.read(path)
    assert found.positions == 2
    first, second = found.rows()
    assert (first.position, first.ids, first.target) == (2, (5, 6, 7), 3)
    assert (second.logprobs, second.target_logprob) == ((-0.25, -3, -4), -6)
    assert second.tail == pytest.approx(0.2)
    assert [row.position for row in found.rows(every=2)] == [2]


@pytest.mark.parametrize("change", [{"ids": b""}, {"tail": b"\0" * 12}, {"first": 0}, {"first": 4}])
def test_a_damaged_reference_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "bad.reference"
    reference.write(path, packed(**change))
    with pytest.raises(BadReference, match=r"bad\.reference"):
        reference.read(path)


@pytest.mark.parametrize("data", [b"", b"no reference", bytes(random.Random(0).randbytes(5000))])
def test_what_is_no_reference_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.reference"
    path.write_bytes(data)
    with pytest.raises(BadReference):
        reference.read(path)
    with pytest.raises(BadReference, match="cannot read"):
        reference.read(tmp_path / "nothing")


def test_a_shipped_reference_is_whole_and_its_text_is_ours() -> None:
    """Probabilities of each row sum up to one, and the file stays small."""
    (path,) = reference.shipped()
    assert path.stat().st_size < 1_500_000
    found = reference.read(path)
    assert (len(found.chunks), found.positions, found.packed.top) == (12, 3072, 64)
    for row in found.rows(every=16):
        assert sum(map(math.exp, row.logprobs)) + row.tail == pytest.approx(1, abs=2e-3)
        if row.target in row.ids:
            assert row.logprobs[row.ids.index(row.target)] == pytest.approx(row.target_logprob, abs=5e-3)


# Asking an engine


class Engine:
    """A stand-in for the client of a service: gives `top` log-probabilities, refuses them, or leaves them out."""

    def __init__(self, top: int | None, refusal: str | None = None, taken: float = -0.5, biased: bool = True) -> None:
        """`taken`: what it says of a token that it is made to take; `biased`: it can be."""
        self.top, self.refusal, self.taken, self.biased = top, refusal, taken, biased
        self.prompts: list[list[int]] = []

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions"
        if "logit_bias" in body and not self.biased:
            raise InvalidRequest("logit_bias: this engine has no such option")
        self.prompts.append(body["prompt"])
        choice: dict[str, Any] = {"text": "two"}
        if "logprobs" in body and self.refusal is not None:
            raise InvalidRequest(self.refusal)
        if "logprobs" in body and self.top is not None:
            entries = [{"id": n, "token": str(n), "logprob": -1.0 - n} for n in range(self.top)]
            [token] = body.get("logit_bias", {"0": 0})
            choice["logprobs"] = {"content": [{"id": int(token), "logprob": self.taken, "top_logprobs": entries}]}
        return {"choices": [choice]}


async def measured(engine: Engine) -> Fidelity:
    return await probe.measure(engine, "m", Reference(packed()), 1, lambda done, total: None)  # type: ignore[arg-type]


async def test_each_position_is_asked_with_what_stands_before_it() -> None:
    engine = Engine(probe.TOP)
    found = await measured(engine)
    assert engine.prompts == [[1, 2], [1, 2, 3], [1]]
    assert found.positions == 2 and found.kl is not None and found.unavailable is None
    assert found.greedy == Estimate(1, 1, 1)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Engine(probe.TOP, taken=-70.5), -70.5),
        (Engine(probe.TOP, taken=0.0), None),
        (Engine(probe.TOP, biased=False), None),
    ],
    ids=["told of the token as it was", "told of it with its bias", "no bias"],
)
async def test_the_token_that_follows_is_known_where_it_is_not_among_the_likeliest(
    engine: Engine, said: float | None
) -> None:
    found = await probe.top(engine, "m", [1], 1000)  # type: ignore[arg-type]
    assert found.get(1000) == said and len(found) == probe.TOP + (said is not None)
    assert (await probe.top(engine, "m", [1], 3))[3] == -4.0  # type: ignore[arg-type]


def test_the_ratio_is_that_of_the_token_that_follows_wherever_it_is_named() -> None:
    row = Reference(packed()).rows()[1]
    assert row.target not in row.ids and row.target_logprob == -6
    told = {8: -0.25, 9: -3.0, 10: -4.0}
    assert fidelity.compare(row, told | {row.target: -6.5}).log_ratio == pytest.approx(0.5)
    assert fidelity.compare(row, told).log_ratio == pytest.approx(math.log(0.2 / 0.153), abs=0.1), (
        "of all others together"
    )
    assert fidelity.by_score(row, -7.0) == Position(row.chunk, None, None, 1.0)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (Engine(None), "hold no log-probabilities"),
        (Engine(5), "of 5 tokens"),
        (Engine(None, "logprobs: this engine has none"), "this engine has none"),
    ],
)
async def test_an_engine_without_log_probabilities_has_answers_and_a_reason(engine: Engine, words: str) -> None:
    found = await measured(engine)
    assert found.kl is None and found.within is None and found.unavailable is not None and words in found.unavailable
    assert found.greedy == Estimate(1, 1, 1)
