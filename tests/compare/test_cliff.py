"""The quant cliff on made-up answers whose truth is known: which task loses first, and what may not be said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from compare.recorded import keep_items
from localfoundry.compare import charts, export, page, tables, text, verdict
from localfoundry.compare.cliff import Cliff, family_of
from localfoundry.compare.evidence import Evidence, gather
from localfoundry.quality.score import mcnemar
from localfoundry.results.db import Results
from localfoundry.results.rows import CandidateRow

Q8, Q5, Q2 = "tiny-1b-q8_0", "tiny-1b-instruct-q5_k_m:2", "Tiny-1B.Q2_K"
KINDS = {Q8: "Q8_0", Q5: "Q5_K_M", Q2: "Q2_K"}


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    with Results(tmp_path / "results.db") as opened:
        yield opened


def lost(count: int, of: int = 40) -> list[bool]:
    """So many of the items failed, the first ones."""
    return [place >= count for place in range(of)]


def told(results: Results, *tasks: tuple[str, str, dict[str, Sequence[bool]]]) -> Evidence:
    runs = [
        keep_items(results, passed, suite=suite, language=language, content=f"{suite}{language}".ljust(64, "0"),
                   quantizations=KINDS)
        for suite, language, passed in tasks
    ]  # fmt: skip
    return gather(results, runs)


def cliff_of(evidence: Evidence) -> Cliff:
    [cliff] = evidence.cliffs
    return cliff


def test_the_task_that_loses_first_is_named_with_its_loss(results: Results) -> None:
    """At Q5 reasoning alone loses items, at Q2 code as well; chat never does."""
    found = cliff_of(
        told(
            results,
            ("chat", "en", {Q2: lost(1), Q8: lost(0), Q5: lost(0)}),
            ("reasoning", "en", {Q2: lost(30), Q8: lost(0), Q5: lost(12)}),
            ("code", "en", {Q2: lost(20), Q8: lost(0), Q5: lost(1)}),
        )
    )
    assert found.family == "tiny-1b"
    assert [(step.label, step.bits) for step in found.steps] == [(Q8, 8.5), (Q5, 5.7), (Q2, 3.2)]
    [first] = found.first
    assert (first.a, first.b, first.suite, first.only_b, first.only_a, first.n) == (Q5, Q8, "reasoning", 12, 0, 40)
    assert first.difference == -0.3
    shown = {(loss.suite, loss.a) for loss in found.losses if loss.shown}
    assert shown == {("reasoning", Q5), ("reasoning", Q2), ("code", Q2)}
    shares = {(s.task, s.label): s.share.count for s in found.solved}
    assert shares["reasoning", Q2] == 10 and shares["chat", Q8] == 40


def test_p_values_are_corrected_for_all_tasks_and_steps(results: Results) -> None:
    """Six items lost and none won is p = 0.031 alone; as one of four comparisons it shows nothing."""
    alone = cliff_of(told(results, ("chat", "en", {Q8: lost(0), Q2: lost(6)})))
    assert [loss.adjusted_p for loss in alone.losses] == [pytest.approx(0.03125)]
    assert [loss.suite for loss in alone.first] == ["chat"]
    both = {Q8: lost(0), Q5: lost(0), Q2: lost(6)}
    found = cliff_of(told(results, ("chat", "en", both), ("code", "en", {Q8: lost(0), Q5: lost(0), Q2: lost(0)})))
    assert max(1 - loss.adjusted_p for loss in found.losses) == pytest.approx(1 - 4 * mcnemar(0, 6))
    assert found.first == []


def test_languages_of_a_task_are_counted_together(results: Results) -> None:
    """Four of twenty lost in each language shows nothing alone (p = 0.125); eight of forty does (p = 0.0078)."""
    english = ("chat", "en", {Q8: lost(0, 20), Q2: lost(4, 20)})
    danish = ("chat", "da", {Q8: lost(0, 20), Q2: lost(4, 20)})
    assert cliff_of(told(results, english)).first == []
    [loss] = cliff_of(told(results, english, danish)).first
    assert (loss.n, loss.language, loss.only_b) == (40, "da, en", 8)
    assert loss.adjusted_p == pytest.approx(2 / 256)


def test_where_nothing_is_lost_it_says_how_much_may_be_unseen(results: Results) -> None:
    evidence = told(results, ("chat", "en", {Q8: lost(10), Q5: lost(10), Q2: lost(11)}))
    said = " ".join(text.block(evidence, verdict.judge(evidence)).split())
    worst = min(loss.interval.low for loss in cliff_of(evidence).losses)
    assert "What quantizing costs: No task is shown to lose items from Q8_0 down to Q2_K" in said
    assert f"up to {-worst:.0%} of the items may be lost unseen, in chat at Q2_K (n = 40)" in said
    assert {row[-1] for row in tables.quantized(evidence).rows} == {"no difference shown"}


def test_it_stands_in_every_form_of_the_comparison(results: Results) -> None:
    evidence = told(
        results,
        ("chat", "en", {Q8: lost(0), Q2: lost(0)}), ("code", "en", {Q8: lost(0), Q2: lost(15)}),
    )  # fmt: skip
    judged = verdict.judge(evidence)
    sentence = "tiny-1b loses items first in code: Q2_K against Q8_0 -38% of 40 items (15 lost, 0 won"
    assert sentence in " ".join(text.block(evidence, judged).split())
    [row] = [row for row in tables.quantized(evidence).rows if row[1] == "code"]
    assert row[2:7] == ("Q2_K / Q8_0", "40", "25 / 40", "15", "0") and row[-1] == "loses items"
    [document] = export.document(evidence, judged)["quantizations"]  # type: ignore[misc]
    assert document["first"] == ["code"] and len(document["losses"]) == 2
    whole = page.page(evidence, judged, made_at="now")
    assert "<h2>What quantizing costs</h2>" in whole and "tiny-1b loses items first in code" in whole
    assert "Items solved by quantization" in [chart.title for chart in charts.charts(evidence)]


def test_other_models_and_unknown_quantizations_are_no_family(results: Results) -> None:
    for labels in (
        {"a-q8_0": "Q8_0", "b-q2_k": "Q2_K"},
        {"a": "Q8_0", "a-mine": None},
        {"a-q8_0": "Q8_0", "a": "Q8_0"},
    ):
        kinds = {label: kind for label, kind in labels.items() if kind}
        run = keep_items(results, {label: lost(0) for label in labels}, content="c" * 64, quantizations=kinds)
        assert gather(results, [run]).cliffs == []


@pytest.mark.parametrize(
    "model,family",
    [
        ("smollm2-135m-instruct-q4_1:1", "smollm2-135m"), ("smollm2-135m-q8_0:1", "smollm2-135m"),
        ("Qwen2.5-0.5B-Instruct-GGUF-Q4_K_M:3", "qwen2.5-0.5b"), ("gemma-3-1b-it.IQ4_NL", "gemma-3-1b"),
        ("phi-4-mini", "phi-4-mini"), ("summit-f16", "summit"), ("granite-4.0-tiny-bf16:1", "granite-4.0-tiny"),
    ],
)  # fmt: skip
def test_a_family_is_known_by_its_name(model: str, family: str) -> None:
    assert family_of(CandidateRow("r", "label", "label", model)) == family
