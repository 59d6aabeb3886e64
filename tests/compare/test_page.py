"""The page: whole, harmless whatever a model answers, and without a wire to the outside."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from compare.recorded import failing, keep_bench, keep_items, outcome
from localfoundry.bench.plan import Plan
from localfoundry.compare import answers, charts, draw, export, page, text, verdict
from localfoundry.compare.evidence import Evidence, gather
from localfoundry.compare.spread import spread
from localfoundry.errors import FoundryError, MissingExtra
from localfoundry.results.db import Results
from localfoundry.results.rows import Run, new_id

PLAN = Plan(rounds=6, concurrency=(1, 2, 4), nonce="n")
HOSTILE = (
    '</pre></div><script src="https://evil.example/x.js">alert(1)</script><img src=x onerror=alert(1)>'
    '{{ 7 * 7 }}{% raw %}" onload="alert(1)" <a href="javascript:alert(1)">'
    '\x1b[2J\u202e\x00<!-- </style><style>@import "//e.example"'
)
BAD_NAME = 'a"><script>alert(1)</script>'


class Elements(HTMLParser):
    """Every element with its attributes, and what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(whole: str) -> Elements:
    elements = Elements()
    elements.feed(whole)
    elements.close()
    assert elements.open == []
    return elements


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    with Results(tmp_path / "results.db") as opened:
        yield opened


@pytest.fixture
def evidence(results: Results) -> Evidence:
    outcomes = [
        outcome("fast", 1.0, PLAN, answer=HOSTILE),
        outcome(BAD_NAME, 2.0, PLAN, peak_bytes=500_000_000),
        failing("broken", f"it ended with {HOSTILE}"),
    ]
    bench = keep_bench(results, PLAN, outcomes)
    items = keep_items(
        results, {"fast": [i % 2 == 0 for i in range(20)], BAD_NAME: [True] * 20}, suite="chat", answer=HOSTILE
    )
    return gather(results, [bench, items])


def made(evidence: Evidence, **how: bool) -> str:
    prompts = {("chat", "en", "item-1"): HOSTILE}
    return page.page(evidence, verdict.judge(evidence), made_at="2026-11-23 06:00 UTC", prompts=prompts, **how)


def test_it_has_choices_charts_tables_answers_protocol_definitions_and_provenance(evidence: Evidence) -> None:
    whole = made(evidence)
    elements = read(whole)
    headings = re.findall(r"<h2>(.*?)</h2>", whole)
    for name in ("What to take", "Charts", "Answers side by side", "How it was measured", "All figures", "Runs",
                 "What was measured"):  # fmt: skip
        assert name in headings, headings
    titles = [chart.title for chart in charts.charts(evidence)]
    assert titles == [
        "Time to first token", "Time between tokens", "Quality, speed and memory", "Throughput over concurrency",
    ]  # fmt: skip
    assert [tag for tag, _ in elements.found].count("svg") == 4
    said = " ".join(elements.texts)
    assert "For development" in said and "For production" in said
    assert "Test CPU, 2 threads, 8 GiB" in said
    assert evidence.rows["fast"].file_sha256 is not None and evidence.rows["fast"].file_sha256 in said
    assert "time of last token - time of first token" in said


def test_nothing_of_a_stranger_becomes_part_of_the_page(evidence: Evidence) -> None:
    """Answers, errors, prompts and names are words: no tag, no attribute and no character of them takes effect."""
    whole = made(evidence)
    elements = read(whole)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {
        "script",
        "img",
        "a",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "foreignobject",
        "use",
    }
    assert [tag for tag, _ in elements.found].count("style") == 1
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not {"href", "src", "xlink:href", "srcdoc", "action"} & set(attributes), (tag, attributes)
    assert "\x1b" not in whole and "\x00" not in whole and "\u202e" not in whole
    said = "".join(elements.texts)
    assert "<script src=" in said and "{{ 7 * 7 }}" in said and BAD_NAME in said


def test_the_page_needs_no_network_and_its_own_policy_forbids_it(evidence: Evidence) -> None:
    whole = made(evidence)
    elements = read(whole)
    [policy] = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'")
    style = whole[whole.index("<style>") : whole.index("</style>")]
    assert "url(" not in style and "@import" not in style
    outside = {value for _, a in elements.found for name, value in a.items() if value and "//" in value
               and not name.startswith("xmlns") and name not in ("aria-label",)}  # fmt: skip
    assert outside == set()


def test_charts_take_the_colours_of_light_dark_and_print(evidence: Evidence) -> None:
    whole = made(evidence)
    assert "prefers-color-scheme: dark" in whole and "@media print" in whole
    svg = draw.svg(charts.charts(evidence)[0])
    assert "currentColor" in svg and "#010203" not in svg and 'fill="white"' not in svg


def test_without_the_extra_there_is_a_word_and_a_page_without_charts(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra) as caught:
        made(evidence)
    assert "localfoundry[report]" in (caught.value.hint or "")
    assert "<svg" not in made(evidence, with_charts=False)


def test_the_picture_is_one_png_and_none_without_figures(evidence: Evidence) -> None:
    data = draw.png(charts.charts(evidence))
    assert data.startswith(b"\x89PNG") and len(data) > 10_000
    with pytest.raises(FoundryError, match="no figure to draw"):
        draw.png(charts.charts(Evidence()))


def test_markdown_csv_and_json_hold_the_same_figures(evidence: Evidence) -> None:
    judged = verdict.judge(evidence)
    written = text.markdown(evidence, judged)
    assert "    Model Comparison Results:" in written
    assert not any(line.startswith(("<", "</")) for line in written.splitlines())
    lines = list(csv.DictReader(io.StringIO(export.lines(evidence))))
    [latency] = [
        line for line in lines
        if (line["alias"], line["metric"], line["load"]) == ("fast", "latency_s", "c=1")
    ]  # fmt: skip
    document = msgspec.json.decode(msgspec.json.encode(export.document(evidence, judged)))
    [row] = [r for r in document["speed"][0]["conditions"] if (r["alias"], r["load"]) == ("fast", "c=1")]
    assert float(latency["median"]) == row["metrics"]["latency_s"]["median"]
    assert any(line["alias"] == "broken" and "it ended" in line["error"] for line in lines)
    assert document["recommendations"][0]["development"]["label"] == "fast"
    names = {"alias", "latency_avg", "latency_p95", "tokens_per_sec_avg", "rounds", "first_token_latency_avg"}
    assert names <= set(document["results"][0])


def test_several_tasks_are_one_line_a_chart_of_their_own_and_answers_of_each(results: Results) -> None:
    """The line of a candidate said `solves` six times, only the first task was drawn, and its answers took all room."""
    bench = keep_bench(results, PLAN, [outcome("a", 1.0, PLAN), outcome("b", 2.0, PLAN)])
    tasks = [("chat", "en"), ("chat", "da"), ("code", "en")]
    runs = [
        keep_items(results, {"a": [True] * 15, "b": [True] * 14 + [False]}, suite=suite, language=language)
        for suite, language in tasks
    ]
    found = gather(results, [bench, *runs])
    said = text.block(found, verdict.judge(found))
    assert "Slower (~2s), solves chat 14/15 en, 14/15 da; code 14/15 en\n" in said
    assert "Items solved" in [chart.title for chart in charts.charts(found)]
    asked = [q.where for q in answers.questions(found, {}) if "item" in q.where]
    assert len(asked) == 12
    assert [sum(place.startswith(f"{suite} ({language})") for place in asked) for suite, language in tasks] == [4, 4, 4]
    assert sorted(asked[:3]) == sorted(f"{suite} ({language}), item item-14" for suite, language in tasks)
    whole = made(found)
    assert whole.count('<details class="soft" open>') == 1, "a choice that rests on many figures has them folded"


def test_a_run_of_foundry_eval_says_its_seed(results: Results) -> None:
    run = keep_items(results, {"a": [True]})
    planned = Run(new_id(), "eval", "2026-11-23T05:10:00+00:00", protocol={"plan": {"seed": 7, "temperature": 0.5}})
    found = gather(results, [run])
    found.item_runs.append(planned)
    assert [line.partition("; ")[2] for line in text.protocol(found)] == [
        "temperature 0, seed 42.", "temperature 0.5, seed 7.",
    ]  # fmt: skip


def test_what_is_drawn_of_a_distribution_was_measured() -> None:
    values = [float(value) for value in range(1, 5001)]
    found = spread(values)
    assert (found.n, found.low, found.middle, found.high) == (5000, 251, 2500.5, 4750)
    assert len(found.dots) == 40 and {found.dots[0], found.dots[-1]} == {1.0, 5000.0}
    assert set(found.dots) <= set(values)
    assert spread([3.0]).dots == (3.0,)
    with pytest.raises(ValueError, match="nothing to draw"):
        spread([])
