"""The comparison as one HTML file that needs nothing else: no network, no script, one style sheet inside.

Everything that comes from elsewhere (names, errors, answers) is escaped by the template engine, and the page's own
policy forbids scripts and every address on top of that. Charts come drawn; without their package the page has tables.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from localfoundry import __version__
from localfoundry.bench.wording import number
from localfoundry.compare import answers, draw, quants, tables, text
from localfoundry.compare.charts import charts
from localfoundry.compare.cliff import sentences
from localfoundry.compare.evidence import Evidence
from localfoundry.compare.tables import Table
from localfoundry.compare.verdict import Choice, Judged
from localfoundry.results.outliers import machine_words

if TYPE_CHECKING:
    from minijinja import Environment

_METRICS = ("ttft_s", "ttfa_s", "itl_s", "decode_tps", "prefill_tps", "latency_s")


def page(
    evidence: Evidence, judged: Sequence[Judged], *, made_at: str, descriptions: Mapping[str, str] | None = None,
    prompts: Mapping[tuple[str, str, str], str] | None = None, with_charts: bool = True,
) -> str:  # fmt: skip
    """The whole file. Raises MissingExtra where charts are wanted and cannot be drawn."""
    from minijinja import safe

    drawn = [
        {"title": chart.title, "what": chart.what, "svg": safe(draw.svg(chart))}
        for chart in (charts(evidence) if with_charts else ())
    ]
    shown = tables.all_of(evidence, judged)
    filled: str = _environment().render_template(
        "page.html",
        title=text.title(evidence),
        made_at=made_at,
        version=__version__,
        machines=list(dict.fromkeys(machine_words(one.run.machine) for one in evidence.panels)),
        notes=[answers.plain(note) for note in evidence.notes],
        panels=[_choices(evidence, said, place, descriptions or {}) for place, said in enumerate(judged)],
        quantized=[line for cliff in evidence.cliffs for line in sentences(cliff)] + quants.sentences(evidence),
        charts=drawn,
        without_charts=not with_charts,
        tables=[_plain(table) for table in shown],
        questions=_questions(evidence, prompts or {}),
        figures=_plain(raw_figures(evidence)),
        definitions=text.definitions(evidence),
        protocol=text.protocol(evidence),
    )
    return filled


def _choices(evidence: Evidence, said: Judged, place: int, descriptions: Mapping[str, str]) -> dict[str, object]:
    panel = evidence.panels[place] if evidence.panels else None
    lines = text.candidates(evidence, said, panel, descriptions)
    return {
        "lines": [answers.plain(line) for line in lines],
        "choices": [_choice(said.development), _choice(said.production)],
    }


def _choice(choice: Choice) -> dict[str, object]:
    return {
        "purpose": choice.purpose,
        "label": choice.label or "no winner",
        "first": choice.because[0],
        "more": choice.because[1:],
        "cites": [cite.words for cite in choice.cites],
    }


def _plain(table: Table) -> dict[str, object]:
    rows = [[answers.plain(cell) for cell in row] for row in table.rows]
    return {"name": table.name, "columns": list(table.columns), "rows": rows}


def _questions(evidence: Evidence, prompts: Mapping[tuple[str, str, str], str]) -> list[dict[str, object]]:
    return [
        {
            "where": q.where,
            "prompt": q.prompt,
            "answers": [{"label": a.label, "text": a.text, "verdict": a.verdict} for a in q.answers],
        }
        for q in answers.questions(evidence, prompts)
    ]


def raw_figures(evidence: Evidence) -> Table:
    """Every summary in numbers, in the units of its name."""
    rows = []
    for panel in evidence.panels:
        for f in panel.figures:
            for name in _METRICS:
                s = f.metrics.get(name)
                if s is not None:
                    interval = s.median_interval
                    ends = (interval.low, interval.high) if interval else (None, None)
                    values = (s.median, *ends, s.mean, s.p95, s.p99, s.minimum, s.maximum, s.cv)
                    told = tuple("" if value is None else number(value) for value in values)
                    rows.append((f.label, f.condition.key, name, str(s.n), *told))
    columns = ("Model", "Under", "Metric", "n", "Median", "95 % low", "95 % high", "Mean", "p95", "p99", "Min", "Max",
               "CV")  # fmt: skip
    return Table("Figures", columns, tuple(rows))


@functools.cache
def _environment() -> Environment:
    from minijinja import Environment

    source = resources.files("localfoundry.compare").joinpath("page.html").read_text("utf-8")
    return Environment(templates={"page.html": source}, undefined_behavior="strict")
