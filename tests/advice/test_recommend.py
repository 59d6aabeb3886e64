"""Recommendations from made-up prospects: who is chosen, why not the others, what would change it."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice.candidates import ROOM, about, evidence, made, measured, prospects
from localfoundry.advice.conflict import explain
from localfoundry.advice.misses import Miss, misses
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.quality import Evidence, declared
from localfoundry.advice.recommend import Recommendation, recommend
from localfoundry.advice.wishes import Wishes
from localfoundry.catalog.guide import load_guide
from localfoundry.catalog.lookup import Catalog

CHAT = Wishes(room_bytes=ROOM)
_WISHES = st.builds(
    Wishes,
    task=st.sampled_from(["chat", "code"]),
    min_speed=st.sampled_from([None, 1.0, 4.0, 16.0]),
    max_ttft_s=st.sampled_from([None, 0.5, 2.0, 16.0]),
    license=st.sampled_from([None, "permissive", "gemma"]),
    context=st.sampled_from([None, 1024, 8192]),
    room_bytes=st.just(ROOM),
    disk_bytes=st.sampled_from([None, 10**9, 10**10]),
)


def ids(found: Recommendation) -> set[str]:
    """The whole set."""
    return {choice.candidate.id for choice in found.chosen} | {candidate.id for candidate in found.others}


def corner(prospect: Prospect, scores: dict[str, Evidence]) -> list[tuple[float, float] | None]:
    """What is weighed, written again from the definition; more is better."""
    quality = scores.get(prospect.alias)
    size = prospect.disk_bytes
    speed, first, memory = prospect.decode, prospect.first_token_s, prospect.memory
    return [
        (quality.low or 0, quality.high or 0) if quality else None,
        (speed.low, speed.high) if speed else None,
        (-first.high, -first.low) if first else None,
        (-memory.high, -memory.low) if memory else None,
        (-size, -size) if size is not None else None,
    ]


def shown_better(a: list[tuple[float, float] | None], b: list[tuple[float, float] | None]) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x and y]
    return len(pairs) == 5 and all(x[0] >= y[1] for x, y in pairs) and any(x[0] > y[1] for x, y in pairs)


@given(prospects(), evidence(), _WISHES)
def test_the_set_is_all_that_pass_and_are_not_dominated(
    field: list[Prospect], known: list[Evidence], wishes: Wishes
) -> None:
    found = recommend(field, wishes, known)
    scores = {e.alias: e for e in known if e.task == wishes.task}
    passing = [p for p in field if not misses(wishes, p)]
    undominated = {
        p.variant
        for p in passing
        if not any(shown_better(corner(other, scores), corner(p, scores)) for other in passing)
    }
    assert ids(found) == undominated
    assert found.passing == len(passing)
    assert {left.candidate.id for left in found.left_out} == {p.variant for p in field} - undominated
    assert all(left.misses or left.dominated_by in undominated for left in found.left_out)


@given(prospects(), evidence(), _WISHES, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_changes_nothing(
    field: list[Prospect], known: list[Evidence], wishes: Wishes, chance: random.Random
) -> None:
    shuffled, others = field[:], known[:]
    chance.shuffle(shuffled)
    chance.shuffle(others)
    assert recommend(shuffled, wishes, others) == recommend(field, wishes, known)


@given(prospects(), _WISHES)
def test_a_wish_that_is_loosened_never_costs_a_candidate(field: list[Prospect], wishes: Wishes) -> None:
    passing = {p.variant for p in field if not misses(wishes, p)}
    looser = [
        replace(wishes, min_speed=wishes.min_speed and wishes.min_speed / 2),
        replace(wishes, max_ttft_s=wishes.max_ttft_s and wishes.max_ttft_s * 2),
        replace(wishes, context=wishes.context and wishes.context // 2),
        replace(wishes, room_bytes=2 * ROOM),
        replace(wishes, disk_bytes=wishes.disk_bytes and wishes.disk_bytes * 2),
        *(replace(wishes, **{name: None}) for name in ("min_speed", "max_ttft_s", "license", "context", "disk_bytes")),
    ]
    for other in looser:
        assert passing <= {p.variant for p in field if not misses(other, p)}


@given(prospects(), evidence(), _WISHES)
def test_what_would_change_it_does(field: list[Prospect], known: list[Evidence], wishes: Wishes) -> None:
    found = recommend(field, wishes, known)
    by_id = {p.variant: p for p in field}
    for change in found.changes:
        assert misses(wishes, by_id[change.comes_in.id])
        again = recommend(field, change.wishes, known)
        assert not misses(change.wishes, by_id[change.comes_in.id])
        assert not set(change.goes_out) & ids(again)
    if found.nearest is not None:
        assert not found.passing
        assert recommend(field, found.nearest, known).passing


@given(prospects(), _WISHES)
def test_what_excludes_everything_is_a_least_set(field: list[Prospect], wishes: Wishes) -> None:
    found = recommend(field, wishes).conflict
    if any(not misses(wishes, p) for p in field):
        assert found is None
        return
    assert found is not None

    def left(keys: tuple[str, ...]) -> int:
        return sum(not any(miss.key in keys for miss in misses(wishes, p)) for p in field)

    assert left(found.together) == 0
    assert all(left(tuple(k for k in found.together if k != key)) for key in found.together)
    assert dict(found.alone) == {key: left((key,)) for key in wishes.keys}


def test_the_better_one_that_is_no_slower_beats_the_other_and_it_is_said_in_what() -> None:
    better, worse = made("better", speed=40, disk=10**9), made("worse", speed=20, first=2.0, memory=4e9, disk=2 * 10**9)
    found = recommend([worse, better], CHAT, [measured("better", 0.8), measured("worse", 0.6)])
    assert ids(found) == {"better:1"}
    assert found.left_out[0].why == (
        "better:1 is shown to be no worse in anything, and better in quality, speed, first token, memory, disk"
    )


def test_without_evidence_of_quality_nobody_goes_and_nobody_wins() -> None:
    """A large model is slower and takes more in every respect: only quality could speak for it, and it is not known."""
    found = recommend([made("small", speed=90), made("large", speed=3, memory=6e9, disk=5 * 10**9)], CHAT)
    assert ids(found) == {"small:1", "large:1"}
    assert found.winner is None
    assert found.find_out == "foundry eval small:1 large:1 --suite chat"


def test_a_winner_is_named_only_where_the_intervals_part() -> None:
    field = [made("fast", speed=90), made("good", speed=10, memory=6e9)]
    parted = [measured("fast", 0.5, 0.05), measured("good", 0.7, 0.05)]
    found = recommend(field, CHAT, parted)
    assert found.winner == "good:1" and found.find_out is None
    assert [choice.candidate.id for choice in found.chosen] == ["good:1", "fast:1"]
    found = recommend(field, CHAT, [measured("fast", 0.5, 0.15), measured("good", 0.7, 0.15)])
    assert found.winner is None and found.find_out == "foundry rate good:1 fast:1", "the suite has said what it can"
    assert recommend(field, CHAT, parted[1:]).winner is None, "one that was measured has beaten nobody"


def test_the_one_that_beats_all_others_in_everything_is_the_winner_too() -> None:
    """Those that it beats are no longer in the set, and are what it was measured against."""
    better, worse = made("better", speed=40, disk=10**9), made("worse", speed=20, first=2.0, memory=4e9, disk=2 * 10**9)
    found = recommend([worse, better], CHAT, [measured("better", 0.8), measured("worse", 0.6)])
    assert ids(found) == {"better:1"} and found.winner == "better:1"


def test_scores_of_one_suite_and_language_are_compared() -> None:
    """Those that the most models were measured with; among equals the suite of the task, and the most items."""
    field = [made("a"), made("b"), made("c")]
    english = [measured("a", 0.9, suite="chat"), measured("b", 0.5, suite="chat")]
    danish = [measured("a", 0.2, suite="chat", language="da", n=24)]
    found = recommend(field, CHAT, [*danish, *english])
    assert found.winner == "a:1" and found.measured == 2
    danish.append(measured("b", 0.8, suite="chat", language="da", n=500))
    assert recommend(field, CHAT, [*english, *danish]).winner == "b:1"
    own = [measured("a", 0.9, suite="mine", n=10_000), measured("b", 0.1, suite="mine", n=10_000)]
    assert recommend(field, CHAT, [*own, *danish]).winner == "b:1"
    wide = [*own, measured("c", 0.2, suite="mine")]
    assert recommend(field, CHAT, [*wide, *danish]).winner == "a:1"


def test_the_source_stands_beside_each_number() -> None:
    others = measured("a", 0.6, source="measured by others")
    rated = msgspec.structs.replace(about(31.0), source="measured here")
    found = recommend([made("a", decode=rated), made("b")], CHAT, [others])
    said = "; ".join(found.chosen[0].reasons)
    assert "31 tokens/s measured here (27.9 to 34.1)" in said
    assert "2.0 GB predicted (1.8 GB to 2.2 GB)" in said
    assert "0.60 (0.58 to 0.62, 100 items of chat-en), measured by others" in said
    assert "quality: no evidence" in found.chosen[1].reasons


def test_what_was_measured_here_counts_before_the_word_of_others_and_declarations() -> None:
    claims = [
        Evidence(alias="a", task="chat", source="declared", role="advanced", by="someone"),
        measured("a", 0.9, source="measured by others"),
        measured("a", 0.3),
    ]
    for order in (claims, claims[::-1]):
        quality = recommend([made("a")], CHAT, order).chosen[0].candidate.quality
        assert quality is not None and quality.score == 0.3


def test_scores_of_another_suite_do_not_compare() -> None:
    strange = measured("a", 0.99, suite="easy")
    found = recommend([made("a"), made("b"), made("c")], CHAT, [strange, measured("b", 0.5), measured("c", 0.6)])
    assert {c.candidate.id: c.candidate.quality is None for c in found.chosen} == {
        "a:1": True,
        "b:1": False,
        "c:1": False,
    }


def test_a_language_counts_only_what_was_measured_in_it() -> None:
    danish = replace(CHAT, language="da")
    known = [measured("a", 0.9), measured("b", 0.4, language="da"),
             Evidence(alias="c", task="chat", source="declared", role="start", by="someone")]  # fmt: skip
    found = recommend([made("a"), made("b"), made("c")], danish, known)
    assert [c.candidate.id for c in found.chosen if c.candidate.quality] == ["b:1"]


def test_a_declaration_orders_and_proves_nothing() -> None:
    claims = [Evidence(alias="a", task="chat", source="declared", role="start", by="someone"),
              Evidence(alias="b", task="chat", source="declared", role="advanced", by="someone")]  # fmt: skip
    found = recommend([made("a", speed=5), made("b", speed=90)], CHAT, claims)
    assert [choice.candidate.id for choice in found.chosen] == ["b:1", "a:1"]
    assert found.winner is None and not found.left_out


def test_the_guide_of_the_catalog_has_a_choice_for_each_of_its_tasks() -> None:
    found = declared(load_guide(), Catalog.load())
    assert {e.task for e in found} == {"chat", "code", "reasoning"}
    assert all(e.score is None and e.source == "declared" for e in found)
    assert {e.alias for e in found if e.task == "chat"} == {"phi-4-mini", "phi-4", "qwen2.5-7b"}


def test_what_is_shown_first_spans_the_set_and_names_each_model_once() -> None:
    field = [made(f"m{speed:02}", speed=speed) for speed in range(1, 10)]
    field.append(made("m09-other", alias="m09", speed=9.5))
    found = recommend(field, CHAT)
    assert [choice.candidate.id for choice in found.chosen] == ["m09-other:1", "m01:1", "m06:1"]
    assert "of the 10 in the set the fastest" in found.chosen[0].reasons[0]


def test_the_least_that_brings_one_in_is_told_for_each_wish() -> None:
    field = [made("good", speed=40), made("slow", speed=27.7), made("slower", speed=12),
             made("big", memory=9.9e9, speed=40), made("closed", license="gemma", speed=40)]  # fmt: skip
    found = recommend(field, replace(CHAT, min_speed=30, license="permissive"))
    assert {change.words: change.comes_in.id for change in found.changes} == {
        "--min-speed 27 instead of 30": "slow:1",
        "without --license permissive": "closed:1",
        "with 2.9 GB more memory": "big:1",
    }


def test_a_better_one_farther_off_is_told_as_well() -> None:
    field = [made("good", speed=40), made("slow", speed=27.7), made("best", speed=12)]
    known = [measured("good", 0.5), measured("slow", 0.4), measured("best", 0.9)]
    found = recommend(field, replace(CHAT, min_speed=30), known)
    assert {change.words: change.comes_in.id for change in found.changes} == {
        "--min-speed 27 instead of 30": "slow:1", "--min-speed 12 instead of 30": "best:1",
    }  # fmt: skip


def test_a_figure_that_may_miss_the_wish_is_said_to() -> None:
    found = recommend([made("a", speed=31, first=0.95)], replace(CHAT, min_speed=30, max_ttft_s=1.0))
    said = found.chosen[0].reasons
    assert "may be slower than 30 tokens/s" in said
    assert "may take longer than 1.0 s to the first token" in said
    assert (
        "other programs have to give memory back first" in recommend([made("a", fit="not now")], CHAT).chosen[0].reasons
    )


def test_wishes_that_contradict_each_other() -> None:
    field = [made("small", speed=90, license="gemma"), made("large", speed=3), made("other", tasks=("code",), speed=90)]
    found = recommend(field, replace(CHAT, min_speed=50, license="permissive"))
    assert found.conflict is not None
    assert found.conflict.together == ("task", "license", "speed")
    assert dict(found.conflict.alone)["speed"] == 2
    assert found.nearest is not None and found.nearest.license is None and found.nearest.min_speed == 50


def test_no_candidates_at_all_have_no_conflict() -> None:
    found = recommend([], CHAT)
    assert found.conflict is not None and found.conflict.together == ()
    assert explain([(Miss("task", CHAT, made("a")),), ()], ("task",)) is None


@pytest.mark.parametrize("score", [-0.1, 1.1])
def test_evidence_out_of_range_is_our_mistake(score: float) -> None:
    with pytest.raises(AssertionError):
        Evidence(alias="a", task="chat", source="measured here", score=score, low=score, high=score, n=1)
