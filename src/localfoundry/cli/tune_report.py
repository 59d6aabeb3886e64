"""The document of a search in words: all that was tried, the winner, before and after, what each choice was worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localfoundry.cli import output
from localfoundry.units import format_bytes

_COLUMNS = ("Tried", "Speed", "x default", "95 %", "Memory", "Loss", "Note")


def show(found: Mapping[str, Any]) -> None:
    """See the module."""
    output.table(_COLUMNS, [_cells(one) for one in found["tried"]])
    output.data(output.dim(f"speed: {found['unit']}; * nothing else here is better in speed, memory and loss at once"))
    output.data(output.dim("x default: paired by round, in turns; loss: perplexity of the text over the default's"))
    if found["notTried"]:
        output.data(f"not tried for want of time: {'; '.join(found['notTried'])}")
    output.data()
    if found["winner"] is None:
        output.data("it was stopped before it could tell" if found["stopped"] else "no better setting was shown")
        return
    by_name = {one["setting"]: one for one in found["tried"]}
    before, after = by_name[found["default"]], by_name[found["winner"]]
    output.data(f"Winner for {found['for']} ({found['what']}): {found['winner']}")
    output.data(f"    before  {_speed(before)} {found['unit']}, {format_bytes(before['memoryBytes'])}")
    output.data(f"    after   {_speed(after)} {found['unit']}, {format_bytes(after['memoryBytes'])}")
    output.data(f"    {_times(found['gain'])} in {found['proofRounds']} new rounds"
                + (f"; {after['loss']['words']}" if after["loss"] else ""))  # fmt: skip
    if found["worth"]:
        output.data("What each choice was worth:")
        for one in found["worth"]:
            output.data(f"    {one['choice']}: {_times(one)}, {one['verdict']}")


def _cells(one: Mapping[str, Any]) -> list[str]:
    loss = one["loss"] and one["loss"].get("perplexity")
    note = "default" if one["default"] else one["out"] or (one["stage"] if one["stage"] != "proof" else "proved")
    return [
        ("* " if one["pareto"] else "  ") + one["setting"],
        _speed(one),
        "" if one["ratio"] is None or one["default"] else f"{one['ratio']:.2f}",
        "" if one.get("low") is None or one["default"] else f"{one['low']:.2f} to {one['high']:.2f}",
        format_bytes(one["memoryBytes"]),
        f"{loss['value'] - 1:+.2%}" if loss else "",
        note,
    ]


def _speed(one: Mapping[str, Any]) -> str:
    speed = one["speed"]
    if speed is None:
        return "unknown"
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _times(one: Mapping[str, Any]) -> str:
    interval = (
        "" if one.get("low") is None or one["low"] == one["high"] else f" ({one['low']:.2f} to {one['high']:.2f})"
    )
    return f"{one['ratio']:.2f} x{interval}"
