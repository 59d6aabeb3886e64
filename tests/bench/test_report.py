"""From raw samples to words: every figure rests on samples written out here."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench.clock_server import ClockServer, Script
from localfoundry import __version__
from localfoundry.bench import block, figures, report
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.outcome import Measurement, Outcome
from localfoundry.bench.plan import Plan
from localfoundry.bench.request import Sample
from localfoundry.bench.run import measure
from localfoundry.chat.target import Target

STEADY = (1.0, 1.01, 0.99, 1.02, 0.98)


def answered(label: str, number: int, latency: float, tokens: int = 64, reasoning: bool = False) -> Sample:
    """An answer with its first token after a tenth of its time and its last one at the end."""
    sent = number * 10.0
    return Sample(
        label=label,
        model=label,
        round=number,
        sent_s=sent,
        done_s=sent + latency,
        first_token_s=sent + latency / 10,
        first_answer_s=sent + latency / (2 if reasoning else 10),
        last_token_s=sent + latency,
        prompt_tokens=80,
        cached_tokens=5,
        completion_tokens=tokens,
    )


def outcome(label: str, latency: float, spread: tuple[float, ...] = STEADY, tokens: int = 64) -> Outcome:
    samples = [answered(label, number, latency * factor, tokens) for number, factor in enumerate(spread, 1)]
    return Outcome(Candidate(label, label), load_s=1.5, samples=samples)


def result(*outcomes: Outcome) -> Measurement:
    return Measurement(Plan(nonce="n"), "2026-01-01T00:00:00+00:00", list(outcomes))


TUTORIAL = {
    "phi-4-mini": "good for general chat",
    "qwen2.5-7b": "better reasoning",
    "deepseek-r1": "excellent for code",
}


def tutorial() -> Measurement:
    return result(outcome("phi-4-mini", 2), outcome("qwen2.5-7b", 5), outcome("deepseek-r1", 3))


def test_the_comparison_has_the_look_of_the_course() -> None:
    lines = block.comparison_block(tutorial(), TUTORIAL).splitlines()
    assert lines[:6] == [
        "Model Comparison Results:",
        "========================",
        "phi-4-mini:        Fast (~2s), good for general chat",
        "qwen2.5-7b:        Slower (~5s), better reasoning",
        "deepseek-r1:       Medium (~3s), excellent for code",
        "",
    ]
    assert lines[6].startswith("Recommendation: Start with phi-4-mini for development")
    assert max(len(line) for line in lines) <= 79


def test_the_recommendation_states_what_it_rests_on() -> None:
    text = " ".join(block.comparison_block(tutorial(), TUTORIAL).split())
    assert "the shortest of the 3 measured (median 2.00 s for an answer, 95 % 1.96 to 2.04 s, 5 rounds)" in text
    assert "qwen2.5-7b takes 2.50 times as long, 95 % 2.50 to 2.50." in text
    assert "Try qwen2.5-7b for production reasoning tasks: that is its description, not a measurement." in text
    assert "Quality was not measured here" in text


def test_without_descriptions_none_are_made_up() -> None:
    text = block.comparison_block(tutorial())
    assert "phi-4-mini:        Fast (~2s)\n" in text
    assert "good for" not in text
    assert "reasoning" not in text


def test_two_that_cannot_be_told_apart_are_both_fast_and_it_is_said() -> None:
    other = outcome("b", 1, tuple(reversed(STEADY)))
    text = " ".join(block.comparison_block(result(outcome("a", 1), other)).split())
    assert "a: Fast (~1s) b: Fast (~1s)" in text
    assert "no difference shown (ratio" in text
    assert "times as long" not in text


def test_noise_is_called_noise() -> None:
    text = " ".join(block.comparison_block(result(outcome("a", 1), outcome("b", 3, (1, 0.4, 2, 0.5, 1.5)))).split())
    assert "b against a: too noisy to conclude (ratio" in text
    row = report.table(result(outcome("b", 3, (1, 0.4, 2, 0.5, 1.5)))).rows[0]
    assert row[-1] == "too noisy to conclude: ttft_s, decode_tps, latency_s"


def test_one_round_ranks_nobody() -> None:
    text = " ".join(block.comparison_block(result(outcome("a", 1, (1.0,)), outcome("b", 2, (1.0,)))).split())
    assert "b against a: not enough rounds to tell." in text
    assert "1 round)" in text


@pytest.mark.parametrize(("latency", "word"), [(2, "Fast"), (3, "Medium"), (5, "Slower")])
def test_a_model_alone_gets_its_word_from_the_clock(latency: float, word: str) -> None:
    text = block.comparison_block(result(outcome("a", latency)))
    advice = " ".join(text.split())
    assert f"a:                 {word} (~{latency}s)" in text
    assert "a alone was measured" in advice
    assert "Quality was not measured here." in advice


def test_failures_stand_in_the_comparison_and_the_table() -> None:
    broken = Outcome(Candidate("broken", "broken"), error="HTTP 503: the worker ended")
    half = outcome("half", 2)
    half.error = "after 3 chunks: cut"
    both = result(outcome("a", 1), broken, half)
    text = block.comparison_block(both)
    assert "broken:            failed: HTTP 503: the worker ended" in text
    assert "half:              failed: after 3 chunks: cut" in text
    assert "a alone was measured" in text, "what failed is not ranked"
    assert [row[-1] for row in report.table(both).rows] == ["", "HTTP 503: the worker ended", "after 3 chunks: cut"]
    assert "Recommendation: none: no model was measured to the end." in block.comparison_block(result(broken))


def test_long_labels_keep_the_columns_aligned() -> None:
    lines = block.comparison_block(result(outcome("a-model-with-a-long-name", 1), outcome("b", 4))).splitlines()
    assert lines[2].index("Fast") == lines[3].index("Slower") == len("a-model-with-a-long-name: ")


def test_answers_of_unequal_length_are_pointed_out() -> None:
    """Two settings of one model differ in time because they differ in length: the block must not hide that."""
    text = " ".join(block.comparison_block(result(outcome("short", 1, tokens=16), outcome("long", 4))).split())
    assert "Answers had 16 to 64 tokens, which their times include." in text


def test_table_has_units_intervals_and_a_reasoning_column_only_where_needed() -> None:
    table = report.table(result(outcome("a", 2)))
    assert table.columns[:4] == ("Model", "Load s", "TTFT ms", "Decode tok/s")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["Load s"] == "1.50"
    assert row["TTFT ms"] == "200 (196–204)"
    assert row["Answer s"] == "2.00 (1.96–2.04)"
    assert row["Decode tok/s"] == "35.0 (34.3–35.7)"
    assert (row["Prompt tok"], row["Cached tok"], row["Output tok"]) == ("80", "5", "64")
    assert (row["Runs"], row["Note"]) == ("5", "")
    thinker = Outcome(Candidate("t", "t"), samples=[answered("t", 1, 2, reasoning=True)])
    with_ttfa = report.table(result(outcome("a", 2), thinker))
    assert with_ttfa.columns[3] == "TTFA ms"
    assert {len(row) for row in with_ttfa.rows} == {len(with_ttfa.columns)}


def test_comparisons_are_paired_by_round_and_skip_rounds_that_failed() -> None:
    a, b = outcome("a", 1), outcome("b", 2)
    del b.samples[2]
    found = report.comparisons(result(a, b))
    assert [(c.a, c.b, c.metric) for c in found] == [
        ("a", "b", "latency_s"),
        ("a", "b", "ttft_s"),
        ("a", "b", "decode_tps"),
    ]
    assert [c.ratio.n for c in found] == [4, 4, 4]
    assert found[0].ratio.value == pytest.approx(0.5)
    assert found[2].ratio.value == pytest.approx(2)


def test_the_rows_of_the_courses_tool() -> None:
    row = report.course_rows(result(outcome("a", 2)))[0]
    assert list(row)[:6] == [
        "alias",
        "rounds",
        "latency_avg",
        "latency_p95",
        "tokens_per_sec_avg",
        "first_token_latency_avg",
    ]
    assert (row["alias"], row["rounds"]) == ("a", 5)
    assert row["latency_avg"] == pytest.approx(2.0)
    assert row["latency_p95"] == pytest.approx(2.04)
    assert row["tokens_per_sec_avg"] == pytest.approx(32, rel=0.01)
    assert row["first_token_latency_avg"] == pytest.approx(0.2)
    empty = report.course_rows(result(Outcome(Candidate("x", "x"), error="gone")))[0]
    assert (empty["rounds"], empty["latency_avg"], empty["error"]) == (0, None, "gone")


def test_throughput_is_tokens_over_time_spent() -> None:
    cell, empty = figures.cells(Plan(), [outcome("a", 2), Outcome(Candidate("b", "b"))])
    assert report.throughput_tps(cell) == pytest.approx(5 * 64 / 10)
    assert report.throughput_tps(empty) is None


def test_the_document_holds_raw_samples_machine_versions_and_settings() -> None:
    facts = {"a": report.ModelFacts(engine="llama.cpp b1", quantization="Q8_0", file_sha256="ab" * 32)}
    found = json.loads(json.dumps(report.document(tutorial(), facts)))
    assert found["versions"]["localfoundry"] == __version__
    assert found["machine"]["memory_bytes"] > 0
    assert found["machine"]["cpu"]
    assert found["settings"]["seed"] == 42
    assert found["settings"]["concurrency"] == [1]
    assert found["definitions"] == report.DEFINITIONS
    assert [len(candidate["samples"]) for candidate in found["candidates"]] == [5, 5, 5]
    assert found["candidates"][0]["metrics"]["ttft_s"]["median"] == pytest.approx(0.2)
    assert found["candidates"][0]["file_sha256"] is None
    with_facts = json.loads(json.dumps(report.document(result(outcome("a", 2)), facts)))
    assert with_facts["candidates"][0]["file_sha256"] == "ab" * 32


async def test_two_settings_of_one_model_from_the_wire_to_the_words() -> None:
    async with ClockServer({"m": Script(tokens=4)}).running() as server, asyncio.timeout(60):
        listed = [Candidate("m short", "m", max_tokens=4), Candidate("m long", "m", prompt_words=200)]
        measured = await measure(Target(server.url), listed, plan=Plan(rounds=3))
    assert [row[0] for row in report.table(measured).rows] == ["m short", "m long"]
    assert "m short:" in block.comparison_block(measured, {"m": "good for general chat"})
    json.dumps(report.document(measured))
