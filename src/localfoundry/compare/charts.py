"""The charts of a comparison as Vega-Lite specifications: what is drawn, from figures that are reckoned already.

A specification is plain JSON and written as such. The Python packages that write it would bring eight more packages
and 0.4 s for the same JSON; what draws is `draw`. Labels are data and never part of an expression. Charts are narrow,
so that their letters stay readable on a phone, where a wide one would be scaled down to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from localfoundry.bench.plan import Condition
from localfoundry.bench.request import Sample
from localfoundry.bench.wording import number
from localfoundry.compare.cliff import Cliff
from localfoundry.compare.evidence import Evidence, Figures, Panel, short
from localfoundry.compare.spread import spread
from localfoundry.compare.verdict import main_condition

WIDTH = 340
_ROW = 44
_LONGEST = 44  # characters of a name; of longer ones the middle is left out: variants of a model differ at their end
# Told apart by most eyes, and 3:1 against white and near-black alike (Okabe and Ito, darkened or lightened for both).
COLOURS = (
    "#2f7fc1", "#d5700a", "#178f6b", "#b64f93", "#8a7d12", "#6a68c8", "#c24a3f", "#3f8f9e", "#7a8a35", "#8b6f5c",
)  # fmt: skip

Spec = dict[str, Any]


class Chart(msgspec.Struct, frozen=True):
    """`what` says in a sentence what is seen, for those who do not see it."""

    title: str
    what: str
    spec: Spec


def charts(evidence: Evidence) -> list[Chart]:
    """Those that there are figures for."""
    colours = colours_of(evidence.labels)
    found: list[Chart | None] = []
    for panel in evidence.panels:
        condition = main_condition(panel)
        where = f", run {short(panel.run)}" if len(evidence.panels) > 1 else ""
        if condition is not None:
            shown = [f for f in panel.under(condition) if f.cell.good]
            found += [
                _distribution(f"Time to first token{where}", "TTFT, ms", shown, condition, lambda s: s.ttft_s, colours),
                _distribution(f"Time between tokens{where}", "ITL, ms", shown, condition, lambda s: s.itl_s, colours),
                _trade(evidence, shown, condition, where, colours),
            ]
        found.append(_throughput(panel, where, colours))
    if not evidence.panels or len({(s.suite, s.language) for s in evidence.scores}) > 1:
        found.append(_solved(evidence, colours))
    found += [_quantized(cliff) for cliff in evidence.cliffs]
    return [chart for chart in found if chart is not None]


def colours_of(labels: Sequence[str]) -> Mapping[str, str]:
    return {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}


def _distribution(
    title: str, unit: str, shown: Sequence[Figures], condition: Condition,
    read: Callable[[Sample], float | None], colours: Mapping[str, str],
) -> Chart | None:  # fmt: skip
    """A row for each candidate: 5 to 95 % as a line, the middle half as a bar, the median as a tick, values as dots."""
    rows: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for f in shown:
        values = [1000 * value for s in f.cell.good if (value := read(s)) is not None]
        if values:
            s = spread(values)
            rows.append({"model": f.label, "name": _short(f.label), "n": s.n, "low": s.low, "first": s.first,
                         "middle": s.middle, "third": s.third, "high": s.high})  # fmt: skip
            dots += [{"model": f.label, "value": value} for value in s.dots]
    if not rows:
        return None
    x = {"type": "quantitative", "title": unit, "scale": {"zero": False, "nice": True}}
    y = {"field": "model", "type": "nominal", "sort": [row["model"] for row in rows], "axis": None}
    colour = _colour([row["model"] for row in rows], colours, legend=False)
    spec: Spec = {
        "width": WIDTH,
        "height": {"step": _ROW},
        "layer": [
            {"data": {"values": rows}, "mark": {"type": "text", "align": "left", "yOffset": -14, "fontSize": 12},
             "encoding": {"x": {"value": 0}, "y": y, "text": {"field": "name"}}},
            {"data": {"values": dots},
             "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.35, "yOffset": 9},
             "encoding": {"x": {**x, "field": "value"}, "y": y, "color": colour}},
            {"data": {"values": rows}, "mark": {"type": "rule", "size": 1.5},
             "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour}},
            {"data": {"values": rows}, "mark": {"type": "bar", "height": 9, "opacity": 0.55},
             "encoding": {"x": {**x, "field": "first"}, "x2": {"field": "third"}, "y": y, "color": colour}},
            {"data": {"values": rows}, "mark": {"type": "tick", "height": 15, "thickness": 2.5},
             "encoding": {"x": {**x, "field": "middle"}, "y": y, "color": colour}},
        ],
    }  # fmt: skip
    said = "; ".join(f"{row['model']}: median {number(row['middle'])}, n = {row['n']}" for row in rows)
    key = "Tick: median; bar: middle half; line: 5 to 95 %; dots: single requests."
    what = f"{unit}, under {condition.key}. {key} {said}."
    return Chart(title, what, spec)


def _throughput(panel: Panel, where: str, colours: Mapping[str, str]) -> Chart | None:
    """Mean of the rounds with its t interval over the number of streams; None for a single level."""
    first = next((c for c in panel.conditions if c.concurrency is not None), None)
    if first is None:
        return None
    same = [
        f for f in panel.figures if (f.condition.scenario, f.condition.language) == (first.scenario, first.language)
    ]
    rows = [
        {
            "model": f.label,
            "streams": f.condition.concurrency,
            "mean": f.throughput.mean,
            "low": max(interval.low, 0) if (interval := f.throughput.mean_interval) else f.throughput.mean,
            "high": interval.high if interval else f.throughput.mean,
        }
        for f in same
        if f.throughput is not None and f.condition.concurrency is not None
    ]
    levels = sorted({row["streams"] for row in rows if isinstance(row["streams"], int)})
    if len(levels) < 2:
        return None
    labels = list(dict.fromkeys(str(row["model"]) for row in rows))
    x = {"field": "streams", "type": "quantitative", "title": "streams at a time",
         "scale": {"type": "log", "base": 2, "nice": False}, "axis": {"values": levels, "format": "d"}}  # fmt: skip
    y = {"type": "quantitative", "title": "tokens per second, all streams", "scale": {"zero": True}}
    colour = _colour(labels, colours, legend=True)
    spec: Spec = {
        "width": WIDTH,
        "height": 220,
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.13},
             "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}},
            {"mark": {"type": "line", "point": True, "strokeWidth": 2},
             "encoding": {"x": x, "y": {**y, "field": "mean"}, "color": colour}},
        ],
    }  # fmt: skip
    what = (
        f"Throughput under {first.scenario}/{first.language}, mean of rounds with its 95 % interval, at "
        f"{', '.join(map(str, levels))} streams."
    )
    return Chart(f"Throughput over concurrency{where}", what, spec)


def _trade(
    evidence: Evidence, shown: Sequence[Figures], condition: Condition, where: str, colours: Mapping[str, str]
) -> Chart | None:
    """Items solved over answer time, with memory as the size of the mark; without items memory over answer time."""
    suite = next(((s.suite, s.language) for s in evidence.scores), None)
    scores = {s.model: s for s in evidence.scores if (s.suite, s.language) == suite}
    rows = []
    for f in shown:
        if not f.measured:
            continue
        interval = f.metrics["latency_s"].median_interval
        row: dict[str, Any] = {
            "model": f.label,
            "seconds": f.latency_s,
            "left": interval.low if interval else f.latency_s,
            "right": interval.high if interval else f.latency_s,
            "memory": (f.peak_bytes or 0) / 1e6,
        }
        score = scores.get(f.label)
        if suite is not None and score is not None:
            row |= {"up": score.accuracy, "bottom": score.interval.low, "top": score.interval.high}
        elif suite is None and f.peak_bytes:
            row |= {"up": row["memory"]}
        if "up" in row:
            rows.append(row)
    if not rows:
        return None
    spec = _trade_spec(rows, colours, quality=suite is not None)
    what = f"Answer time under {condition.key} with its 95 % interval"
    if suite is not None:
        what += f", items solved of {suite[0]} ({suite[1]}) with theirs; the area of a mark is the worker's memory, MB."
        return Chart(f"Quality, speed and memory{where}", what, spec)
    return Chart(f"Speed and memory{where}", f"{what}; memory of the worker. Quality was not measured.", spec)


def _trade_spec(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str], *, quality: bool) -> Spec:
    x = {"type": "quantitative", "title": "answer time, s", "scale": {"zero": False, "nice": True, "padding": 18}}
    scale = {"domain": [0, 1]} if quality else {"zero": False, "nice": True, "padding": 18}
    title = "items solved" if quality else "memory, MB"
    y = {"type": "quantitative", "title": title, "scale": scale, "axis": {"format": "%"} if quality else {}}
    colour = _colour([row["model"] for row in rows], colours, legend=True)
    marks: dict[str, Any] = {"type": "point", "filled": True, "opacity": 0.8, **({} if quality else {"size": 110})}
    point: dict[str, Any] = {"x": {**x, "field": "seconds"}, "y": {**y, "field": "up"}, "color": colour}
    if quality and any(row["memory"] for row in rows):
        point["size"] = {"field": "memory", "type": "quantitative", "title": "memory, MB",
                         "scale": {"zero": True, "range": [0, 300]},
                         "legend": {"tickCount": 3, "orient": "bottom"}}  # fmt: skip
    layers: list[Spec] = [
        {"mark": {"type": "rule", "opacity": 0.7},
         "encoding": {"x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": {**y, "field": "up"},
                      "color": colour}},
    ]  # fmt: skip
    if quality:
        layers.append(
            {"mark": {"type": "rule", "opacity": 0.7},
             "encoding": {"x": {**x, "field": "seconds"}, "y": {**y, "field": "bottom"}, "y2": {"field": "top"},
                          "color": colour}}
        )  # fmt: skip
    return {
        "width": WIDTH,
        "height": 220,
        "data": {"values": rows},
        "layer": [*layers, {"mark": marks, "encoding": point}],
    }


def _solved(evidence: Evidence, colours: Mapping[str, str]) -> Chart | None:
    """Shares with their intervals, of every task: beside speeds there is room for one."""
    rows = [
        {"model": s.model, "task": f"{s.suite} ({s.language})", "share": s.accuracy, "low": s.interval.low,
         "high": s.interval.high}
        for s in evidence.scores
    ]  # fmt: skip
    if not rows:
        return None
    labels = list(dict.fromkeys(str(row["model"]) for row in rows))
    x = {"type": "quantitative", "title": "items solved", "scale": {"domain": [0, 1]}, "axis": {"format": "%"}}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    y = {"field": "task", "type": "nominal", "title": None, "sort": tasks,
         "axis": {"ticks": False, "domain": False, "labelPadding": 9}}  # fmt: skip
    offset = {"field": "model", "type": "nominal", "sort": labels}
    colour = _colour(labels, colours, legend=True)
    spec: Spec = {
        "width": WIDTH,
        "height": {"step": 14, "for": "offset"},
        "data": {"values": rows},
        "layer": [
            {"mark": "rule", "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y,
                                          "yOffset": offset, "color": colour}},
            {"mark": {"type": "point", "filled": True, "size": 50},
             "encoding": {"x": {**x, "field": "share"}, "y": y, "yOffset": offset, "color": colour}},
        ],
    }  # fmt: skip
    return Chart("Items solved", "Share of items solved, with its 95 % interval (Wilson).", spec)


def _quantized(cliff: Cliff) -> Chart:
    """A line for each task over the quantizations, the most bits first, with the interval of each share."""
    rows = [
        {"task": s.task, "kind": cliff.quantization(s.label), "share": s.share.value, "low": s.share.low,
         "high": s.share.high}
        for s in cliff.solved
    ]  # fmt: skip
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    # Side by side, so that intervals can be told apart.
    beside = {"field": "task", "type": "nominal", "sort": tasks, "scale": {"paddingOuter": 0.3}}
    x = {"field": "kind", "type": "nominal", "sort": [step.quantization for step in cliff.steps], "title": None,
         "axis": {"labelAngle": 0, "ticks": False, "labelPadding": 9}}  # fmt: skip
    y = {"type": "quantitative", "title": "items solved", "scale": {"domain": [0, 1]}, "axis": {"format": "%"}}
    colour = _colour(tasks, colours_of(tasks), legend=True) | {"field": "task"}
    spec: Spec = {
        "width": WIDTH,
        "height": 220,
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "rule", "opacity": 0.7},
             "encoding": {"x": x, "xOffset": beside, "y": {**y, "field": "low"}, "y2": {"field": "high"},
                          "color": colour}},
            {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
             "encoding": {"x": x, "xOffset": beside, "y": {**y, "field": "share"}, "color": colour}},
        ],
    }  # fmt: skip
    what = (
        f"{cliff.family}: share of items solved with its 95 % interval, by task, from the most bits to the fewest. "
        "Losses are judged by the pairs of answers to each item, which show more than these intervals."
    )
    return Chart("Items solved by quantization", what, spec)


def _short(label: str) -> str:
    """Without its middle where it is long."""
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f"{label[:half]}…{label[-half + 1 :]}"


def _colour(labels: Sequence[str], colours: Mapping[str, str], *, legend: bool) -> dict[str, Any]:
    told = {"title": None, "orient": "bottom", "columns": 1, "labelLimit": WIDTH, "symbolOpacity": 1}
    return {
        "field": "model",
        "type": "nominal",
        "scale": {"domain": list(labels), "range": [colours[label] for label in labels]},
        "legend": told if legend else None,
    }
