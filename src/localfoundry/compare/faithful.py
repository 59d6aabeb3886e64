"""How far candidates are from their source weights in float32, as it stands beside their speed and their answers.

Pure but for reading a kept run. A speed that was bought with a quantization or another engine is worth nothing where
the answers are another model's: whoever is chosen and is shown to be further from the source than the bound has that
said in the same sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from localfoundry.errors import DiskError
from localfoundry.quality.fidelity import PERPLEXITY_BOUND, Estimate, Fidelity
from localfoundry.results.db import Results
from localfoundry.results.rows import Run

SUITE = "fidelity"  # of the one item of a candidate


class Faithful(msgspec.Struct, frozen=True):
    """A figure and the run it is of."""

    fidelity: Fidelity
    run: str

    @property
    def worse(self) -> bool:
        """Whether the perplexity is shown to be worse than that of the source weights by more than the bound."""
        perplexity = self.fidelity.perplexity
        return perplexity is not None and perplexity.low - 1 > PERPLEXITY_BOUND


def read(results: Results, run: Run) -> dict[str, Faithful]:
    """The figures of a kept run by label; empty for a run of another kind. Raises DiskError for what is damaged."""
    if "fidelity" not in run.protocol:
        return {}
    found = {}
    for row in results.items(run.id):
        if row.suite == SUITE:
            try:
                found[row.label] = Faithful(msgspec.json.decode(row.raw, type=Fidelity), run.id)
            except msgspec.MsgspecError as exc:
                raise DiskError(f"the fidelity of run {run.id} cannot be read: {exc}") from exc
    return found


def warning(label: str, figures: Mapping[str, Faithful]) -> str | None:
    """What has to be said of a winner; None: nothing is shown against it."""
    one = figures.get(label)
    perplexity = one.fidelity.perplexity if one is not None and one.worse else None
    if perplexity is None:
        return None
    return (
        f"but its perplexity is {perplexity.value:.2f} times that of the source weights (95 % {perplexity.low:.2f} to "
        f"{perplexity.high:.2f}): it does not answer as that model does"
    )


def words(one: Faithful) -> str:
    """For a line about one candidate."""
    found = one.fidelity
    if found.perplexity is None:
        return "fidelity unavailable"
    return f"perplexity {percent(found.perplexity)}"


def percent(ratio: Estimate) -> str:
    """A ratio as a change with its interval: `+1.2% (+0.3% to +2.1%)`."""
    value, low, high = (f"{one - 1:+.1%}" for one in (ratio.value, ratio.low, ratio.high))
    return f"{value} ({low} to {high})"


def figure(found: Estimate | None, form: str) -> str:
    """With its interval; `form` is that of one number."""
    if found is None:
        return "unavailable"
    return f"{form.format(found.value)} ({form.format(found.low)} to {form.format(found.high)})"


def verdict(found: Fidelity) -> str:
    """Whether it is within the bounds, in a word."""
    if found.unavailable:
        return "unavailable"
    return {True: "yes", False: "no", None: "not shown"}[found.within]
