"""Charts drawn by Vega-Lite, which `vl-convert` runs without a browser and without a network: SVG for the page, PNG.

`vl-convert` is the extra `localfoundry[report]`, 84 MB, and imported here alone. The page gets pictures and no program:
Vega's own scripts are 800 kB that a mail client or a wiki would not run, and what there is to look up stands in tables.

One picture serves light, dark and print: what Vega draws in `_INK` becomes `currentColor`, the colour of the text
around it, and the colours of candidates are such as stand out from both. Tests of the page try that.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from localfoundry.compare.charts import Chart, Spec
from localfoundry.errors import FoundryError, MissingExtra

_INK = "#010203"
_PAPER = "#ffffff"
_WHOLE = 390  # width of a picture with its axis, so that all have letters of one size
_LARGEST = 3.0  # of a PNG: pixels for each unit of the drawing


def _config(ink: str, paper: str | None) -> dict[str, Any]:
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": paper,
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "text": {"color": ink},
        "axis": {**text, "gridColor": ink, "gridOpacity": 0.14, "domainColor": ink, "domainOpacity": 0.4,
                 "tickColor": ink, "tickOpacity": 0.4, "tickCount": 5, "labelOverlap": True},
        "legend": {**text, "symbolBaseFillColor": ink, "symbolStrokeColor": "transparent"},
        "title": {"color": ink, "fontSize": 14, "anchor": "start", "fontWeight": 600},
    }  # fmt: skip


def require() -> None:
    """Raises MissingExtra where charts cannot be drawn here."""
    _engine()


def svg(chart: Chart) -> str:
    """An SVG element for a page, in the colours of its surroundings. Raises MissingExtra."""
    whole = {**chart.spec, "width": _WHOLE, "autosize": {"type": "fit-x", "contains": "padding"}}
    drawn: str = _engine().vegalite_to_svg({**whole, "config": _config(_INK, None)}, allowed_base_urls=[])
    return drawn.replace(_INK, "currentColor").replace("rgb(1, 2, 3)", "currentColor")


def png(charts: Sequence[Chart], scale: float = 2.0) -> bytes:
    """All charts as one picture on white, two beside each other. Raises MissingExtra, and FoundryError for none."""
    if not charts:
        raise FoundryError("there is no figure to draw: nothing was measured to the end")
    whole: Spec = {
        "concat": [{**chart.spec, "title": chart.title} for chart in charts],
        "columns": 2,
        "spacing": 40,
        "padding": 16,
        "resolve": {"scale": {"color": "independent", "size": "independent"}},
        "config": _config("#1b1f24", _PAPER),
    }
    drawn: bytes = _engine().vegalite_to_png(whole, scale=min(scale, _LARGEST), allowed_base_urls=[])
    return drawn


def _engine() -> ModuleType:
    try:
        import vl_convert
    except ImportError as exc:
        raise MissingExtra(
            "charts need the package vl-convert-python, which is not installed",
            hint="pip install 'localfoundry[report]', or --no-charts for a page without them",
        ) from exc
    return vl_convert  # type: ignore[no-any-return,unused-ignore]
