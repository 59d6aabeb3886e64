"""Other wishes under which one candidate passes: each wish loosened by as little as it takes, and rounded outwards.

What is found from a candidate's figures is tried before it is said (`confirmed`): with another context the figures are
others as well, and whoever calls says how they are had.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from localfoundry.advice.misses import Miss, misses
from localfoundry.advice.prospects import Prospect
from localfoundry.advice.wishes import Wishes
from localfoundry.fit.context import SMALLEST_CONTEXT

Changed = dict[str, Any]  # other values for fields of the wishes
Loosened = tuple[float, Changed]  # how far it goes: 0 is nothing, 1 is twice as far
AtContext = Callable[[Prospect, int], Prospect]  # the same variant with so many tokens

_STEP_BYTES = 10**8
_BOUGHT = 100.0  # memory and disk come after all that only has to be typed


def ways(wishes: Wishes, prospect: Prospect, miss: Miss) -> list[Loosened]:
    """How the wish that is missed can be loosened for this candidate."""
    return [found for way in _WAYS.get(miss.key, ()) if (found := way(wishes, prospect, miss)) is not None]


def least(wishes: Wishes, prospect: Prospect, missed: tuple[Miss, ...]) -> Loosened | None:
    """Every missed wish loosened, and how far that is in sum; None where it cannot be done."""
    far, changed = 0.0, Changed()
    for miss in missed:
        found = ways(wishes, prospect, miss)
        if not found:
            return None
        step, other = min(found, key=lambda way: way[0])
        far, changed = far + step, changed | other
    return far, changed


def confirmed(asked: Wishes, changed: Changed, prospect: Prospect, at: AtContext) -> Wishes | None:
    """The other wishes if the candidate passes them; a smaller context is made smaller still until it does."""
    wishes = replace(asked, **changed)
    if wishes.context is None or wishes.context == asked.context:
        return None if misses(wishes, prospect) else wishes
    powers = (2**power for power in range(wishes.context.bit_length() - 1, 0, -1))
    for tokens in (wishes.context, *powers):
        if SMALLEST_CONTEXT <= tokens <= wishes.context:
            tried = replace(wishes, context=tokens)
            if not misses(tried, at(prospect, tokens)):
                return tried
    return None


def words(asked: Wishes, changed: Wishes) -> str:
    """`--min-speed 8 instead of 10`, `without --license mit`, `with 2.0 GB more memory`."""
    said = []
    if changed.license != asked.license:
        said.append(f"without {asked.words('license')}")
    if changed.context != asked.context:
        said.append(f"{changed.words('context')} instead of {asked.context}")
    if changed.min_speed != asked.min_speed:
        said.append(f"{changed.words('speed')} instead of {asked.words('speed').split()[1]}")
    if changed.max_ttft_s != asked.max_ttft_s:
        said.append(f"{changed.words('first token')} instead of {asked.words('first token').split()[1]}")
    if changed.room_bytes != asked.room_bytes:
        said.append(f"with {_gigabytes(asked.room_bytes, changed.room_bytes)} more memory")
    if changed.disk_bytes != asked.disk_bytes:
        said.append(f"with {_gigabytes(asked.disk_bytes, changed.disk_bytes)} more room on the disk")
    return ", ".join(said)


def _gigabytes(before: int | None, after: int | None) -> str:
    return f"{((after or 0) - (before or 0)) / 1e9:.1f} GB"


def _speed(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    if not miss.needs or wishes.min_speed is None:
        return None
    enough = _rounded(miss.needs, math.floor)
    return wishes.min_speed / enough - 1, {"min_speed": enough}


def _first_token(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    if not miss.needs or wishes.max_ttft_s is None:
        return None
    enough = _rounded(miss.needs, math.ceil)
    return enough / wishes.max_ttft_s - 1, {"max_ttft_s": enough}


def _license(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    return 1.0, {"license": None}


def _context(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    """As far as it was trained for, or as fits; below 512 tokens it is no conversation."""
    known = [tokens for tokens in (prospect.trained_context, prospect.largest_context) if tokens is not None]
    enough = min(known, default=0)
    if wishes.context is None or not SMALLEST_CONTEXT <= enough < wishes.context:
        return None
    return wishes.context / enough - 1, {"context": enough}


def _memory(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    if not miss.needs or wishes.room_bytes is None:
        return None
    enough = _more(miss.needs, wishes.room_bytes)
    return _BOUGHT + enough / max(wishes.room_bytes, 1), {"room_bytes": enough}


def _disk(wishes: Wishes, prospect: Prospect, miss: Miss) -> Loosened | None:
    if not miss.needs or wishes.disk_bytes is None:
        return None
    enough = _more(miss.needs, wishes.disk_bytes)
    return _BOUGHT + enough / max(wishes.disk_bytes, 1), {"disk_bytes": enough}


def _more(needs: float, there: int) -> int:
    """In whole steps beyond what there is."""
    return there + math.ceil((needs - there) / _STEP_BYTES) * _STEP_BYTES


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """To two digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{towards(value / step) * step:.6g}")


_WAYS: dict[str, tuple[Callable[[Wishes, Prospect, Miss], Loosened | None], ...]] = {
    "speed": (_speed,), "first token": (_first_token,), "license": (_license,), "context": (_context,),
    "memory": (_memory, _context), "disk": (_disk,),
}  # fmt: skip
