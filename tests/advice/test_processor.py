"""A surveyed machine as the estimator takes it: which cores count, which instructions, and when nothing is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from localfoundry import fit
from localfoundry.advice.processor import processor_of
from localfoundry.fit import Load, decode
from localfoundry.fit.processor import MEASURED_ON
from localfoundry.hardware.machine import SCHEMA, Bandwidth, Cpu, Machine, MemoryFacts
from recorded_loads import loads

PROBED = Bandwidth(32e9, 2, 0.99, 2**28, 1.8e9, "memcmp")
HERE = Cpu("x86_64", MEASURED_ON[0], physical_cores=8, logical_cores=16, usable=16, instructions=MEASURED_ON[1])


def machine(cpu: Cpu = HERE, bandwidth: Bandwidth | None = PROBED) -> Machine:
    return Machine(SCHEMA, "Linux", cpu, MemoryFacts(2**34, 2**33), bandwidth)


def cpu(**facts: object) -> Cpu:
    return msgspec.structs.replace(HERE, **facts)


@pytest.mark.parametrize(
    ("facts", "cores"),
    [
        ({}, 8),  # threads of one core share its arithmetic
        ({"usable": 2}, 2),  # a container's quota
        ({"performance_cores": 6, "efficiency_cores": 2}, 6),
        ({"physical_cores": None}, 16),
    ],
)
def test_the_cores_that_threads_get(facts: dict[str, object], cores: int) -> None:
    found = processor_of(machine(cpu(**facts)))
    assert found is not None and found.cores == cores


@pytest.mark.parametrize(
    "unknown",
    [
        machine(bandwidth=None),
        machine(cpu(physical_cores=None, logical_cores=None, usable=None)),
        Machine(SCHEMA, "Plan 9", Cpu("mips"), MemoryFacts()),
    ],
)
def test_without_sensors_there_is_no_guess(unknown: Machine) -> None:
    assert processor_of(unknown) is None


def test_only_the_machine_that_was_measured_counts_as_measured() -> None:
    others = [
        machine(cpu(model="AMD Ryzen 9 7950X")),
        machine(cpu(instructions=("AVX2",))),
        machine(bandwidth=msgspec.structs.replace(PROBED, share=0.5)),  # the memory may be faster than that
    ]
    here = processor_of(machine())
    assert here is not None and here.measured
    for other in others:
        found = processor_of(other)
        assert found is not None and not found.measured
    native = processor_of(machine(), native=True)
    assert native is not None and not native.measured


def test_after_a_disturbed_probe_it_may_be_faster_than_it_says() -> None:
    one = loads()[0]
    quiet, busy = (
        processor_of(machine(cpu(model="another"), msgspec.structs.replace(PROBED, share=share)))
        for share in (1.0, 0.5)
    )
    assert quiet is not None and busy is not None
    sure, unsure = (decode(one.shape, Load(2048), found).interval for found in (quiet, busy))
    assert unsure.low == sure.low
    assert unsure.high == pytest.approx(2 * sure.high)


def test_the_bundled_engine_uses_what_it_was_built_for() -> None:
    bundled, native = (processor_of(machine(), native=native) for native in (False, True))
    assert bundled is not None and bundled.isa == ("avx2",)
    assert native is not None and set(native.isa) == {"avx2", "avx512_vnni", "avx512_bf16"}
    arm = processor_of(machine(Cpu("aarch64", physical_cores=4, instructions=("NEON", "DOTPROD", "I8MM"))))
    assert arm is not None and arm.isa == ("neon", "dotprod")


def test_the_less_was_measured_the_wider_is_the_interval() -> None:
    """The machine that was measured, another of its kind, and one whose instructions nobody measured."""
    one = loads()[0]
    here = fit.Processor(32e9, 2, ("avx2",), measured=True)
    widths = []
    for processor in (here, replace(here, measured=False), replace(here, measured=False, isa=("neon",))):
        found = decode(one.shape, Load(2048), processor).interval
        widths.append(found.high / found.low)
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] > 4  # half to twice and more: it is a guess, and says so


def test_the_machine_of_the_recorded_speeds_is_the_one_that_is_called_measured() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "fit" / "speeds.json").read_text())["machine"]
    assert recorded["processor"] == MEASURED_ON[0]
    assert set(MEASURED_ON[1]) <= set(recorded["instructions"])
