"""A machine in the estimator's numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hardware.recorded import MACHINES, Recorded
from localfoundry import config
from localfoundry.advice.machine import of_other, of_this
from localfoundry.hardware.machine import Bandwidth, Machine
from localfoundry.hardware.survey import Probe, survey

NAMES = sorted(path.stem for path in MACHINES.glob("*.txt"))
PROBED = Bandwidth(20e9, 2, 1.0, 2**28, 0.0, "of a test")


def recorded(name: str, home: Path, *, probed: bool = True) -> Machine:
    told = Recorded.load(name)
    found = survey(home, Probe.NEVER, told, told.nvml)
    return msgspec.structs.replace(found, bandwidth=PROBED) if probed else found


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_machine_has_numbers_or_says_that_it_has_none(name: str, tmp_path: Path) -> None:
    told = recorded(name, tmp_path)
    for means in (of_this(told, config.load()), of_other(told, config.load(), "other")):
        assert (means.memory_bytes is None) == (told.memory.total_bytes is None)
        assert (means.free_bytes is None) == (told.memory.available_bytes is None)
        if means.memory_bytes is not None and means.free_bytes is not None:
            assert 0 <= means.free_bytes <= means.memory_bytes
        if means.processor is not None:
            assert 1 <= means.processor.cores <= (told.cpu.usable or 2**16)
        assert means.isa == ("neon" if told.cpu.architecture in ("arm64", "aarch64") else "avx2")


def test_without_a_probe_there_is_no_processor_to_predict_for(tmp_path: Path) -> None:
    assert of_this(recorded("epyc-vm", tmp_path, probed=False), config.load()).processor is None


def test_a_containers_limit_is_all_that_there_is(tmp_path: Path) -> None:
    told = recorded("container-cgroup-v2", tmp_path)
    assert told.memory.limit_bytes is not None and told.memory.machine_bytes is not None
    means = of_this(told, config.load())
    assert means.memory_bytes == told.memory.limit_bytes - config.load().memory_reserve_bytes
    assert means.memory_bytes < told.memory.machine_bytes


def test_settings_and_models_that_give_way_count_here_and_not_for_another_machine(tmp_path: Path) -> None:
    told = recorded("epyc-vm", tmp_path)
    total, available = told.memory.total_bytes, told.memory.available_bytes
    assert total is not None and available is not None
    limited = config.load({"memory_limit_bytes": total // 2, "memory_reserve_bytes": 10**9})
    used = total - available
    assert of_this(told, limited).memory_bytes == total // 2 - 10**9
    assert of_this(told, limited).free_bytes == max(total // 2 - used - 10**9, 0)
    assert of_this(told, config.load(), used).free_bytes == of_this(told, config.load()).memory_bytes
    other = of_other(told, limited, "box")
    assert other.memory_bytes == total - 10**9
    assert (other.name, other.measured_as) == ("box", None)
