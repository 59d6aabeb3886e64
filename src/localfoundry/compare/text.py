"""The comparison in words: the block of the course with a choice for development and one for production; Markdown.

The speed words (Fast, Medium, Slower) rank what was measured together and mean nothing next to another run's.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from localfoundry.bench.block import speed_words
from localfoundry.bench.report import DEFINITIONS
from localfoundry.bench.wording import about
from localfoundry.compare import quants
from localfoundry.compare.cliff import Cliff, sentences
from localfoundry.compare.evidence import Evidence, Panel, short
from localfoundry.compare.faithful import words as words_of
from localfoundry.compare.tables import Table, all_of
from localfoundry.compare.verdict import Choice, Judged
from localfoundry.quality.fidelity import DEFINITIONS as OF_FIDELITY
from localfoundry.quality.report import DEFINITIONS as OF_QUALITY
from localfoundry.quality.score import Score
from localfoundry.results.rows import Run

_WIDTH = 79


def block(evidence: Evidence, judged: Sequence[Judged], descriptions: Mapping[str, str] | None = None) -> str:
    """For each run `phi-4-mini: Fast (~2s), good for general chat`, and the recommendations.

    `descriptions` is keyed by label and holds what somebody says that a model is good for.
    """
    parts = []
    for number, said in enumerate(judged):
        panel = evidence.panels[number] if evidence.panels else None
        lines = ["Model Comparison Results:", "=" * 24]
        if len(judged) > 1 and panel is not None:
            lines[0] = f"Model Comparison Results, run {short(panel.run)}:"
        lines += candidates(evidence, said, panel, descriptions or {})
        for choice in (said.development, said.production):
            lines += ["", *recommendation(choice)]
        parts.append("\n".join(lines))
    parts += ["\n".join(["What quantizing costs:", *quantized(cliff)]) for cliff in evidence.cliffs]
    if told := quants.sentences(evidence):
        parts.append("\n".join(["What perplexity says of quantizations:", *(_lines(told))]))
    return "\n\n".join(parts)


def candidates(evidence: Evidence, said: Judged, panel: Panel | None, descriptions: Mapping[str, str]) -> list[str]:
    """A line each."""
    labels = panel.labels if panel is not None else evidence.labels
    width = max(18, *(len(label) + 1 for label in labels))
    words: dict[str, str] = {}
    if panel is not None and said.condition is not None:
        shown = panel.under(said.condition)
        ranked = speed_words([f.cell for f in shown if f.measured])
        for f in shown:
            speed = f"{ranked[f.label]} (~{about(f.latency_s)}s)" if f.measured else ""
            failed = " ".join((f.cell.error or "").split())
            words[f.label] = speed or (f"failed: {failed}" if failed else "not measured")
    found = []
    for label in labels:
        solved = _solved([s for s in evidence.scores if s.model == label])
        far = words_of(evidence.fidelity[label]) if label in evidence.fidelity else ""
        parts = [words.get(label, ""), descriptions.get(label, ""), solved, far]
        found.append(f"{label + ':':<{width}} {', '.join(part for part in parts if part) or 'not measured'}")
    return found


def _solved(scores: Sequence[Score]) -> str:
    """Of one task in a sentence's words, of several as a list."""
    if len(scores) < 2:
        return "".join(f"solves {s.passed} of {s.n} ({s.suite}, {s.language})" for s in scores)
    tasks: dict[str, list[str]] = {}
    for s in scores:
        tasks.setdefault(s.suite, []).append(f"{s.passed}/{s.n} {s.language}")
    return "solves " + "; ".join(f"{task} {', '.join(each)}" for task, each in tasks.items())


def quantized(cliff: Cliff) -> list[str]:
    """Which task of a model loses items first, as lines."""
    return _lines(sentences(cliff))


def _lines(said: Sequence[str]) -> list[str]:
    return [line for sentence in said for line in _wrapped(sentence, "  ")]


def recommendation(choice: Choice) -> list[str]:
    """The choice, what is said for it, and the figures it rests on, as lines."""
    found = _wrapped(f"Recommendation for {choice.purpose}: {choice.because[0]}", "")
    for sentence in choice.because[1:]:
        found += _wrapped(sentence, "  ")
    for cite in choice.cites:
        found += _wrapped(f"[{cite.words}]", "  ")
    return found


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        line, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def definitions(evidence: Evidence) -> dict[str, str]:
    """Of the figures that stand in the tables."""
    found = dict(DEFINITIONS) if evidence.panels else {}
    if any(f.cell.condition.rate is not None for p in evidence.panels for f in p.figures):
        found["arrivals"] = "rate=2: requests come at random times, two a second on average, whether or not one is free"
    if evidence.panels:
        found["memory"] = "largest private memory of the worker seen between requests"
    found |= OF_QUALITY if evidence.items else {}
    return found | (OF_FIDELITY if evidence.fidelity else {})


def protocol(evidence: Evidence) -> list[str]:
    """How each run was measured."""
    found = []
    for panel in evidence.panels:
        plan = panel.measurement.plan
        loads = ", ".join(condition.key for condition in plan.conditions())
        found.append(
            f"Run {short(panel.run)}: {plan.rounds} rounds of {loads}, candidates in turns (A B C A B C), one warm-up "
            f"of each thrown away; distinct prompts, the same for every candidate; temperature {plan.temperature:g}, "
            f"seed {plan.seed}; energy: {panel.measurement.energy}."
        )
    return found + [
        f"Run {short(run)}: items of suites, one at a time, in turns; temperature {_asked(run, 'temperature', 0)}, "
        f"seed {_asked(run, 'seed', '?')}."
        for run in evidence.item_runs
    ]


def _asked(run: Run, name: str, otherwise: object) -> object:
    """A setting of a run of items: `foundry eval` keeps them in a plan, a comparison beside its candidates."""
    plan = run.protocol.get("plan")
    return (plan if isinstance(plan, dict) else run.protocol).get(name, otherwise)


def markdown(evidence: Evidence, judged: Sequence[Judged], descriptions: Mapping[str, str] | None = None) -> str:
    """Everything but the answers and the charts."""
    # Indented, and not fenced: no name or error can end it.
    text = textwrap.indent(block(evidence, judged, descriptions), "    ")
    parts = [f"# {_plain(title(evidence))}", text]
    parts += [f"*{_plain(note)}*" for note in evidence.notes]
    parts += [f"## {table.name}\n\n{_table(table)}" for table in all_of(evidence, judged)]
    parts.append("## Protocol\n\n" + "\n".join(f"- {_plain(line)}" for line in protocol(evidence)))
    known = definitions(evidence).items()
    parts.append("## Definitions\n\n" + "\n".join(f"- **{name}**: {_plain(words)}" for name, words in known))
    return "\n\n".join(parts) + "\n"


def title(evidence: Evidence) -> str:
    labels = evidence.labels
    named = " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))
    return f"Comparison of {named if len(labels) < 4 else f'{len(labels)} models'}"


def _table(table: Table) -> str:
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows)


def _plain(text: str) -> str:
    """Without what Markdown would take for its own: names and errors are words of strangers."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))
