"""What may be said of candidates, from runs that are written out here: never more than their figures show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from compare.recorded import MACHINE, failing, keep_bench, keep_fidelity, keep_items, keep_votes, outcome
from localfoundry.bench.plan import Plan
from localfoundry.compare import quants, tables, text, verdict
from localfoundry.compare.evidence import gather, short
from localfoundry.errors import InvalidRequest
from localfoundry.quality.fidelity import Estimate
from localfoundry.results.db import Results
from localfoundry.results.rows import Run, new_id

PLAN = Plan(rounds=8, nonce="n")


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    with Results(tmp_path / "results.db") as opened:
        yield opened


def test_the_one_that_is_shown_to_be_fastest_is_taken_for_development_with_its_figures(results: Results) -> None:
    run = keep_bench(results, PLAN, [outcome("slow", 2.0, PLAN), outcome("fast", 1.0, PLAN)])
    [said] = verdict.judge(gather(results, [run]))
    assert said.development.label == "fast"
    [first, second] = said.development.cites
    assert (first.label, first.n, first.run) == ("fast", 8, short(run))
    assert first.low is not None and first.high is not None and first.low <= first.value <= first.high
    assert second.label == "slow"
    [pair] = [p for p in said.pairs if p.metric == "latency_s"]
    assert (pair.a, pair.b) == ("slow", "fast")
    assert pair.ratio.value == pytest.approx(2.0, rel=0.05)
    assert verdict.slower(pair)


def test_where_no_difference_is_shown_there_is_no_winner_and_the_sentence_says_so(results: Results) -> None:
    same = [outcome("a", 1.0, PLAN, spread=0.1), outcome("b", 1.0, PLAN, spread=0.1, peak_bytes=900_000_000)]
    evidence = gather(results, [keep_bench(results, PLAN, same)])
    judged = verdict.judge(evidence)
    assert judged[0].development.label is None
    words = " ".join(text.block(evidence, judged).split())
    assert "no winner" in words and "no difference shown (ratio" in words
    assert "a takes the least memory, 200.0 MB against up to 900.0 MB" in words


def test_without_items_there_is_no_choice_for_production(results: Results) -> None:
    run = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    [said] = verdict.judge(gather(results, [run]))
    assert said.production.label is None
    assert said.production.because[0] == "none: what the answers are worth was not measured."
    assert not said.production.cites


def test_who_is_shown_to_solve_more_is_taken_for_production_although_slower(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    items = keep_items(results, {"a": [i % 5 < 3 for i in range(40)], "b": [True] * 40})
    [said] = verdict.judge(gather(results, [bench, items]))
    assert (said.development.label, said.production.label) == ("a", "b")
    assert said.production.because[0] == "b: the others are shown to solve fewer items."
    cited = {(cite.label, cite.figure): cite for cite in said.production.cites}
    assert cited["b", "solved of chat (en)"].n == 40
    assert cited["b", "solved of chat (en)"].run == short(items)


def test_who_solves_less_than_half_is_not_recommended_for_production(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    items = keep_items(results, {"a": [i < 4 for i in range(40)], "b": [i < 5 for i in range(40)]})
    [said] = verdict.judge(gather(results, [bench, items]))
    assert said.production.label is None
    assert "shown to solve less than 50%" in said.production.because[0]


def test_the_fastest_is_taken_for_production_only_where_it_can_lose_little(results: Results) -> None:
    """Twenty items of which 50 % and 80 % were solved showed no difference, and the fastest was recommended."""
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    far = keep_items(results, {"a": [i % 2 == 0 for i in range(20)], "b": [i % 5 != 0 for i in range(20)]})
    [said] = verdict.judge(gather(results, [bench, far]))
    assert said.production.label is None
    assert "a, the fastest, may solve up to" in said.production.because[0]
    alike = keep_items(results, {"a": [True] * 30, "b": [True] * 30})
    [said] = verdict.judge(gather(results, [bench, alike]))
    assert said.production.label == "a"


def test_people_decide_where_items_do_not(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    alike = keep_items(results, {"a": [True] * 30, "b": [True] * 30})
    keep_votes(results, "a", "b", ["b"] * 12)
    [said] = verdict.judge(gather(results, [bench, alike]))
    assert said.production.label == "b"
    assert "people prefer" in said.production.because[0]


def test_a_candidate_that_always_fails_has_a_row_that_says_so_and_the_others_stay(results: Results) -> None:
    outcomes = [outcome("a", 1.0, PLAN), failing("broken", "the worker ended\nwith status 9"), outcome("b", 2.0, PLAN)]
    evidence = gather(results, [keep_bench(results, PLAN, outcomes)])
    judged = verdict.judge(evidence)
    assert judged[0].development.label == "a"
    speeds = tables.speeds(evidence.panels[0])
    [row] = [row for row in speeds.rows if row[0] == "broken"]
    assert "failed: the worker ended" in row[speeds.columns.index("Note")]
    assert "broken:            failed: the worker ended with status 9" in text.block(evidence, judged)


def test_runs_of_different_machines_are_said_to_be_and_not_compared(results: Results) -> None:
    here = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    there = keep_bench(results, PLAN, [outcome("c", 0.5, PLAN), outcome("d", 0.6, PLAN)], {**MACHINE, "cpu": "Other"})
    evidence = gather(results, [here, there])
    judged = verdict.judge(evidence)
    assert [said.development.label for said in judged] == ["a", "c"]
    assert not {(p.a, p.b) for said in judged for p in said.pairs} - {("b", "a"), ("d", "c")}
    [note] = evidence.notes
    assert "different machines" in note and "Other" in note


def test_a_label_that_was_another_file_is_not_mixed(results: Results) -> None:
    files = {"a": "1" * 64, "b": "2" * 64}
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)], sha256=files)
    items = keep_items(results, {"a": [True] * 5, "b": [True] * 5}, sha256={"a": "3" * 64, "b": "2" * 64})
    evidence = gather(results, [bench, items])
    assert [score.model for score in evidence.scores] == ["b"]
    assert any("a is file 333333333333" in note for note in evidence.notes)


def test_items_of_suites_with_one_name_and_two_contents_are_not_paired_and_it_says_so(results: Results) -> None:
    """`a` solved all of an easy chat suite, `b` a part of another one: they have no item in common."""
    easy = keep_items(results, {"a": [True] * 30}, content="a1" * 32)
    hard = keep_items(results, {"b": [False] * 25 + [True] * 5}, content="b2" * 32)
    evidence = gather(results, [easy, hard])
    assert evidence.differences == []
    assert [(s.suite, s.model, s.passed) for s in evidence.scores] == [
        ("chat@a1a1a1a1", "a", 30),
        ("chat@b2b2b2b2", "b", 5),
    ]
    assert evidence.notes == [
        "chat (en) had 2 contents in these runs, which are not compared: chat@a1a1a1a1, chat@b2b2b2b2"
    ]
    same = gather(results, [easy, keep_items(results, {"b": [False] * 25 + [True] * 5}, content="a1" * 32)])
    assert [(d.a, d.b, d.n, d.shown) for d in same.differences] == [("a", "b", 30, True)]
    assert same.notes == []


def test_an_empty_run_is_refused_and_an_interrupted_one_says_so(results: Results) -> None:
    empty = keep_bench(results, PLAN, [])
    with pytest.raises(InvalidRequest, match="holds no result"):
        gather(results, [empty])
    run = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    results.finish(run.id, "interrupted")
    evidence = gather(results, [results.run(run.id), empty])
    assert any("interrupted" in note for note in evidence.notes)
    assert any("holds no sample" in note for note in evidence.notes)


def test_items_alone_can_be_compared(results: Results) -> None:
    items = keep_items(results, {"a": [i % 5 < 3 for i in range(40)], "b": [True] * 40})
    evidence = gather(results, [items])
    [said] = verdict.judge(evidence)
    assert (said.development.label, said.production.label) == (None, "b")
    assert "b:                 solves 40 of 40 (chat, en)" in text.block(evidence, [said])


def test_a_rating_run_holds_answers_that_nobody_checked(results: Results) -> None:
    run = Run(new_id(), "rating", "2026-11-23T05:20:00+00:00")
    results.begin(run)
    with pytest.raises(InvalidRequest, match="holds no result"):
        gather(results, [results.run(run.id)])


def test_a_winner_that_does_not_answer_as_its_source_does_has_that_said_with_it(results: Results) -> None:
    """The fastest quantization may be another model: 20 % worse in perplexity is no detail of a table."""
    bench = keep_bench(results, PLAN, [outcome("whole", 2.0, PLAN), outcome("coarse", 1.0, PLAN)])
    far = keep_fidelity(results, {"coarse": Estimate(1.2, 1.15, 1.26), "whole": Estimate(1.001, 0.99, 1.012)})
    evidence = gather(results, [bench, far])
    [said] = verdict.judge(evidence)
    assert said.development.label == "coarse"
    assert said.development.because[0].endswith(
        "shown to answer faster than every other, but its perplexity is 1.20 times that of the source weights "
        "(95 % 1.15 to 1.26): it does not answer as that model does."
    )
    [cite] = [one for one in said.development.cites if one.unit == "times"]
    assert (cite.label, cite.value, cite.low, cite.n) == ("coarse", 1.2, 1.15, 384)
    table = tables.fidelity(evidence)
    assert [row[0] for row in table.rows] == ["whole", "coarse"], "as the candidates stand everywhere"
    words = text.block(evidence, [said])
    assert "perplexity +20.0% (+15.0% to +26.0%)" in words and "KL" in text.definitions(evidence)


def test_nothing_is_held_against_a_winner_whose_loss_is_not_shown(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("whole", 2.0, PLAN), outcome("fine", 1.0, PLAN)])
    near = keep_fidelity(results, {"fine": Estimate(1.02, 1.009, 1.031)})
    [said] = verdict.judge(gather(results, [bench, near]))
    assert said.development.label == "fine" and "perplexity" not in said.development.because[0]


def test_fidelity_alone_can_be_compared(results: Results) -> None:
    evidence = gather(results, [keep_fidelity(results, {"a": Estimate(1.2, 1.1, 1.3)})])
    first, *_ = tables.all_of(evidence, verdict.judge(evidence))
    assert first.name == "Fidelity to the source weights"


def test_a_label_that_another_engine_ran_is_not_mixed(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    items = keep_items(results, {"a": [True] * 6, "b": [True] * 6}, engines={"a": "openvino", "b": "llama.cpp"})
    evidence = gather(results, [bench, items])
    assert {result.model for result in evidence.items} == {"b"}
    assert "a was run by openvino in run" in evidence.notes[0] and "by llama.cpp elsewhere" in evidence.notes[0]


def test_quantizations_stand_side_by_side_with_the_ones_that_fall_named(results: Results) -> None:
    labels = {"tiny-1b-q8_0": ("Q8_0", 2.0), "tiny-1b-q4_0": ("Q4_0", 1.0)}
    bench = keep_bench(results, PLAN, [outcome(label, latency_s, PLAN) for label, (_, latency_s) in labels.items()])
    for row in results.candidates(bench.id):
        results.set_candidate(msgspec.structs.replace(row, quantization=labels[row.label][0]))
    far = keep_fidelity(
        results, {"tiny-1b-q8_0": Estimate(1.004, 0.99, 1.02), "tiny-1b-q4_0": Estimate(1.2, 1.15, 1.26)}
    )
    items = keep_items(results, {label: [True] * 3 + [False] for label in labels})
    evidence = gather(results, [bench, far, items])
    evidence.sizes = {"tiny-1b-q8_0": 144_000_000}
    table = tables.side_by_side(evidence)
    assert [row[0] for row in table.rows] == ["Q8_0", "Q4_0"], "from the most bits to the fewest"
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert (first["File"], first["Memory"], first["Solved"]) == ("144.0 MB", "200.0 MB", "3 of 4")
    assert first["Perplexity"] == "+0.4% (-1.0% to +2.0%)"
    assert quants.sentences(evidence) == [
        "tiny-1b: shown to be worse in perplexity by more than 1 %: Q4_0 +20.0% (+15.0% to +26.0%); of Q8_0 that is "
        "not shown."
    ]


def test_models_that_are_not_of_one_family_are_no_quantizations_of_each_other(results: Results) -> None:
    bench = keep_bench(results, PLAN, [outcome("a", 2.0, PLAN), outcome("b", 1.0, PLAN)])
    evidence = gather(results, [bench])
    assert not tables.side_by_side(evidence).rows and not quants.sentences(evidence)
