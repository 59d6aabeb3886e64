"""Where items are asked: local models and endpoints behind one, and which models are asked in turns."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from localfoundry.bench.candidates import Candidate
from localfoundry.bench.energy import UNAVAILABLE, Meter
from localfoundry.chat.target import Target
from localfoundry.cli.compare_services import Services
from localfoundry.errors import FoundryError
from localfoundry.quality.ask import Asked, Endpoint, Metered, Route, Routed
from localfoundry.quality.run import Group, failed_load


@contextlib.asynccontextmanager
async def routed(
    services: Services, candidates: Sequence[Candidate], keys: Mapping[str, str], timeout_s: float, meter: Meter
) -> AsyncIterator[Routed]:
    """Every candidate by its label. The energy of an answer is that of a model on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        routes = {}
        for candidate in candidates:
            if candidate.endpoint is not None:
                target = Target(candidate.endpoint, secret=keys.get(candidate.label, ""))
            else:
                target = services.target(candidate)
            asked: Asked = await stack.enter_async_context(Endpoint(target, timeout_s))
            if candidate.endpoint is None and meter.source != UNAVAILABLE:
                asked = Metered(asked, meter)
            routes[candidate.label] = Route(
                asked, candidate.model, candidate.parameters, remote=candidate.endpoint is not None
            )
        yield Routed(routes)


async def groups(services: Services, candidates: Sequence[Candidate], told: Callable[[Candidate], None]) -> list[Group]:
    """All models beside each other; those that memory does not allow follow one at a time.

    In turns they would be loaded anew for every item. `told` is called with each that was loaded.
    """

    async def load(candidate: Candidate, *, alone: bool) -> None:
        await services.ready(candidate, alone=alone)
        told(candidate)

    def by_itself(candidate: Candidate) -> Group:
        async def prepare() -> dict[str, str]:
            try:
                await load(candidate, alone=True)
            except FoundryError as exc:
                return {candidate.label: failed_load(exc)}
            return {}

        return Group((candidate.label,), prepare)

    local = [candidate for candidate in candidates if candidate.endpoint is None]
    for candidate in local:
        with contextlib.suppress(FoundryError):  # asked for again in a group of its own, where the error is kept
            await load(candidate, alone=False)
    resident = await services.resident()
    together = tuple(c.label for c in candidates if c.endpoint is not None or c.label in resident)
    return [Group(together), *(by_itself(candidate) for candidate in local if candidate.label not in resident)]
