"""What came of a search as a document, and which of all tried are worth looking at. Pure.

The document is what `--json` prints, what the profile keeps as its evidence, and what the table is made of.
"""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry.bench.stats import Ratio
from localfoundry.tuning.purpose import LOW_MEMORY, Purpose
from localfoundry.tuning.search import Outcome, Tried


def document(
    outcome: Outcome, purpose: Purpose, model: str, machine: str, budget_s: float, bound: float
) -> dict[str, Any]:
    """Everything; speeds in `unit`, ratios over the default."""
    tried = list(outcome.tried.values())
    best = pareto(tried)
    winner = outcome.tried[outcome.winner] if outcome.winner else None
    return {
        "model": model,
        "for": purpose.name,
        "what": purpose.what,
        "unit": purpose.unit,
        "machine": machine,
        "budgetSeconds": budget_s,
        "maxLoss": bound,
        "default": outcome.base.label,
        "winner": winner.setting.label if winner else None,
        "gain": gain(outcome, purpose, winner) if winner else None,
        "proofRounds": outcome.proof_rounds,
        "tried": [_row(one, one in best, one.setting == outcome.base) for one in tried],
        "worth": [{"choice": one.choice, **_ratio(one.ratio)} for one in outcome.worth],
        "notTried": outcome.not_tried,
        "stopped": outcome.stopped,
    }


def gain(outcome: Outcome, purpose: Purpose, winner: Tried) -> dict[str, float]:
    """How many times better than the default, with its interval; memory is counted and has none."""
    if purpose.name == LOW_MEMORY:
        base = outcome.tried[outcome.base].memory_bytes or 0
        ratio = base / (winner.memory_bytes or base or 1)
        return {"ratio": ratio, "low": ratio, "high": ratio}
    assert winner.ratio is not None and winner.ratio.interval is not None
    interval = winner.ratio.interval
    return {"ratio": winner.ratio.value, "low": interval.low, "high": interval.high}


def pareto(tried: list[Tried]) -> list[Tried]:
    """Those that no other one beats in speed, memory and loss at once; without what failed or was refused."""
    known = [one for one in tried if one.out is None and _speed(one) is not None]
    return [one for one in known if not any(_beats(other, one) for other in known if other is not one)]


def _beats(a: Tried, b: Tried) -> bool:
    """At least as good in everything and better in one thing, as far as both are known."""
    pairs = [(_speed(a), _speed(b)), (_less(a.memory_bytes), _less(b.memory_bytes)), (_less(_loss(a)), _less(_loss(b)))]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return all(x >= y for x, y in known) and any(x > y for x, y in known)


def _speed(one: Tried) -> float | None:
    return one.ratio.value if one.ratio else None


def _less(value: float | None) -> float | None:
    return None if value is None else -value


def _loss(one: Tried) -> float | None:
    return one.loss.perplexity.value if one.loss and one.loss.perplexity else None


def _row(one: Tried, best: bool, default: bool) -> dict[str, Any]:
    return {
        "setting": one.setting.label,
        "engine": one.setting.engine,
        "version": one.setting.version,
        "arguments": list(one.setting.words),
        "parallel": one.setting.slots,
        "default": default,
        "pareto": best,
        "stage": one.stage,
        "speed": one.value,
        **(_ratio(one.ratio) if one.ratio else {"ratio": None}),
        "memoryBytes": one.memory_bytes,
        "loss": msgspec.to_builtins(one.loss) if one.loss else None,
        "out": one.out,
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    interval = ratio.interval
    return {
        "ratio": ratio.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "rounds": ratio.n,
        "verdict": ratio.verdict,
    }
