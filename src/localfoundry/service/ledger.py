"""Who holds how many bytes of which device: pure arithmetic, and the only place that does it.

A claim is what a model is counted with: predicted before its load, measured after it. What other processes hold counts
like a claim that cannot be evicted. A reserve is kept free, so that neither a wrong prediction nor a browser tab brings
the machine to its knees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Bytes = Mapping[str, int]  # by device
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Budget:
    """One device. All in bytes: what there is, what other processes hold of it, what is kept free."""

    limit: int
    others: int = 0
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The budgets of all devices. A device without a budget has nothing to give."""

    budgets: Mapping[str, Budget]

    def free(self, claims: Iterable[Bytes], device: str, *, reserve: bool = True) -> int:
        """Bytes that a load may still take; negative where claims and others already hold more than there is."""
        budget = self.budgets.get(device, Budget(0))
        held = sum(claim.get(device, 0) for claim in claims)
        return budget.limit - budget.others - held - (budget.reserve if reserve else 0)

    def missing(self, need: Bytes, claims: Iterable[Bytes]) -> dict[str, int]:
        """Bytes that are missing for `need`, by device; empty where it fits."""
        held = list(claims)
        lack = {device: size - self.free(held, device) for device, size in need.items() if size > 0}
        return {device: size for device, size in lack.items() if size > 0}

    def overdrawn(self, claims: Iterable[Bytes]) -> dict[str, int]:
        """Bytes by which claims and others exceed a device, its reserve already used up."""
        held = list(claims)
        lack = {device: -self.free(held, device, reserve=False) for device in self.budgets}
        return {device: size for device, size in lack.items() if size > 0}
