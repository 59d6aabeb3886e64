"""What is done before a load is asked of the scheduler: the plan is made, and the file that it wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from localfoundry.config import Settings
from localfoundry.engines.choice import LeftOut
from localfoundry.service.decisions import LoadPlan, Resident
from localfoundry.service.planning import LoadOptions, Planner
from localfoundry.service.reencoding import Reencodings
from localfoundry.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Preparation:
    """See the module."""

    planner: Planner
    reencodings: Reencodings

    async def plan(
        self, manifest: Manifest, options: LoadOptions, settings: Settings, resident: Resident | None,
        room: Callable[[], int], failed: Sequence[LeftOut] = (),
    ) -> LoadPlan:  # fmt: skip
        """How it would be loaded, with the re-encoding made that this wants; arguments as in `Planner.plan`.

        Raises as the planner, LoadFailed where the re-encoding was cancelled, TimeoutError where it took longer than
        requests may wait.
        """

        async def plan() -> LoadPlan:
            # In a thread: of a version that is older than its manifest's shape, the file's header is read.
            return await asyncio.to_thread(
                self.planner.plan, manifest, options, settings, resident, room(), failed
            )  # fmt: skip

        made = await plan()
        if resident is not None and not failed and _is_so(resident.plan, options):
            return replace(resident.plan, ttl_s=made.ttl_s, pinned=made.pinned, retain=made.retain)
        if made.reencode_to is None:
            return made
        async with asyncio.timeout(settings.queue_timeout_s):
            await self.reencodings.make(manifest, made.reencode_to)
        made = await plan()
        if made.reencode_to is None:
            return made
        self.reencodings.failed[manifest.id] = "it is not there when it is done"  # removed at once, by somebody else
        return await plan()


def _is_so(loaded: LoadPlan, options: LoadOptions) -> bool:
    """Whether what is loaded is what is asked for."""
    asked = ((options.context, loaded.context), (options.engine, loaded.engine), (options.device, loaded.device))
    return all(wanted is None or wanted == has for wanted, has in asked)
