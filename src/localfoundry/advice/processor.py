"""A surveyed machine's processor in the estimator's plain numbers: the one place where the two meet."""

from __future__ import annotations

from localfoundry import fit
from localfoundry.fit.processor import MEASURED_ON
from localfoundry.hardware.bandwidth import UNDISTURBED
from localfoundry.hardware.machine import Cpu, Machine

UNKNOWN = "unknown: no probe of the memory yet (foundry hardware --probe)"
_BUNDLED = frozenset({"AVX2", "NEON", "FP16", "DOTPROD"})  # what the wheel's build uses of a processor
_LEAST_SHARE = 0.05  # of the processor; a probe that had less says nothing


def processor_of(machine: Machine, *, native: bool = False) -> fit.Processor | None:
    """Cores that a load's threads get, and the probed bandwidth; None where either is not known.

    Kernels run on the performance cores where there are both kinds, and on no more than a container leaves. A probe
    that was disturbed found at least what it says, so that the machine does not count as measured.
    `native`: an engine built for this machine, which uses all instructions that it has; the bundled one does not.
    """
    count, bandwidth = _cores(machine.cpu), machine.bandwidth
    if count is None or bandwidth is None:
        return None
    named = machine.cpu.instructions or ()
    used = [name for name in named if native or name in _BUNDLED]
    share = 1.0 if bandwidth.share is None else max(bandwidth.share, _LEAST_SHARE)
    disturbed = share < UNDISTURBED
    known = machine.cpu.model == MEASURED_ON[0] and set(MEASURED_ON[1]) <= set(named)
    return fit.Processor(
        bandwidth.bytes_per_s,
        count,
        tuple(name.lower().replace("-", "_") for name in used),
        measured=known and not disturbed and not native,
        doubt=1 / share if disturbed else 1.0,
    )


def _cores(cpu: Cpu) -> int | None:
    counts = (cpu.performance_cores or cpu.physical_cores or cpu.logical_cores, cpu.usable)
    return min((count for count in counts if count), default=None)
