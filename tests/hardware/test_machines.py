"""Recorded machines of many kinds are told as they are: nothing swallowed, nothing invented."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hardware.recorded import MACHINES, Recorded
from localfoundry.hardware.machine import Accelerator, Machine, contradictions, decode, encode
from localfoundry.hardware.survey import Probe, survey

NAMES = sorted(path.stem for path in MACHINES.glob("*.txt"))


def told(name: str, home: Path) -> Machine:
    recorded = Recorded.load(name)
    return survey(home, Probe.NEVER, recorded, recorded.nvml)


# name: (model, vendor, physical, logical, performance, efficiency, usable, last cache in MiB)
PROCESSORS = {
    "intel-hybrid-laptop": ("13th Gen Intel(R) Core(TM) i7-1360P", "Intel", 12, 16, 4, 8, 16, 18),
    "epyc-vm": ("AMD EPYC", "AMD", 2, 2, None, None, 2, 32),
    "xeon-amx-two-sockets": ("Intel(R) Xeon(R) Platinum 8480+", "Intel", 4, 8, None, None, 8, 210),
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)", "ARM", 4, 4, None, None, 4, None),
    "arm-server-sve": ("Neoverse V1", "ARM", 4, 4, None, None, 4, 32),
    "arm-big-little": ("Radxa ROCK 5B (Cortex-A55 + Cortex-A76)", "ARM", 8, 8, 4, 4, 8, None),
    "wsl2-nvidia": ("AMD Ryzen 7 5800X 8-Core Processor", "AMD", 4, 8, None, None, 8, 32),
    "container-cgroup-v2": ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel", 2, 4, None, None, 2, 55),
    "container-cgroup-v1": ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel", 2, 4, None, None, 4, None),
    "slice-cgroup-v2": ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel", 2, 4, None, None, 2, None),
    "apple-m3-pro": ("Apple M3 Pro", "Apple", 11, 11, 5, 6, 11, 16),
    "mac-intel": ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "GenuineIntel", 6, 12, None, None, 12, 12),
    "windows-laptop": ("Intel(R) Core(TM) Ultra 7 155H", "Intel", None, 4, None, None, 4, None),
    "no-sensors": (None, None, None, None, None, None, None, None),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors(name: str, tmp_path: Path) -> None:
    cpu = told(name, tmp_path).cpu
    cache = cpu.cache_bytes // 2**20 if cpu.cache_bytes else None
    assert (cpu.model, cpu.vendor, cpu.physical_cores, cpu.logical_cores, cpu.performance_cores, cpu.efficiency_cores,
            cpu.usable, cache) == PROCESSORS[name]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "there", "absent"),
    [
        ("intel-hybrid-laptop", {"AVX2", "AVX-VNNI", "F16C", "FMA"}, {"AVX-512F", "AMX-INT8"}),
        ("epyc-vm", {"AVX2", "AVX-512F", "AVX512-VNNI", "AVX512-BF16"}, {"AVX-VNNI", "AMX-INT8"}),
        ("xeon-amx-two-sockets", {"AVX-512F", "AVX512-VNNI", "AVX-VNNI", "AMX-INT8", "AMX-BF16"}, {"NEON"}),
        ("raspberry-pi-5", {"NEON", "DOTPROD"}, {"I8MM", "SVE", "AVX2"}),
        ("arm-server-sve", {"NEON", "DOTPROD", "I8MM", "SVE", "BF16"}, {"SVE2"}),
        ("apple-m3-pro", {"NEON", "DOTPROD", "I8MM", "BF16"}, {"SVE", "SME"}),
        ("mac-intel", {"AVX2", "F16C", "FMA"}, {"AVX-512F"}),
    ],
)
def test_instructions(name: str, there: set[str], absent: set[str], tmp_path: Path) -> None:
    instructions = told(name, tmp_path).cpu.instructions
    assert instructions is not None
    assert there <= set(instructions)
    assert not absent & set(instructions)


def test_an_instruction_of_only_some_cores_does_not_count(tmp_path: Path) -> None:
    """A thread may run on any core; on some of a recorded Arm machine's the recording names i8mm."""
    assert "i8mm" in (MACHINES / "arm-big-little.txt").read_text()
    assert "I8MM" not in (told("arm-big-little", tmp_path).cpu.instructions or ())


# name: (total, available, machine, limit)
MEMORIES = {
    "epyc-vm": (24684084 * 1024, 23319592 * 1024, 24684084 * 1024, None),
    "container-cgroup-v2": (4_000_000_000, 3_400_000_000, 65800000 * 1024, 4_000_000_000),
    "container-cgroup-v1": (2**31, 2**31 - 500_000_000, 65800000 * 1024, 2**31),
    "slice-cgroup-v2": (8_000_000_000, 2_000_000_000, 65800000 * 1024, 8_000_000_000),
    "apple-m3-pro": (19327352832, 9000000000, 19327352832, None),
    "no-sensors": (None, None, None, None),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_and_the_limits_of_containers(name: str, tmp_path: Path) -> None:
    """Version 1 and 2, the own group and those above it; cached files can be had back."""
    memory = told(name, tmp_path).memory
    found = (memory.total_bytes, memory.available_bytes, memory.machine_bytes, memory.limit_bytes)
    assert found == MEMORIES[name]


DISKS = {
    "intel-hybrid-laptop": [("/", "nvme"), ("/media/My Disk", "hdd"), ("/srv/models", "network")],
    "epyc-vm": [("/", "unknown")],
    "raspberry-pi-5": [("/", "card")],
    "arm-server-sve": [("/", "unknown")],
    "wsl2-nvidia": [("/", "unknown"), ("/mnt/c", "network")],
    "container-cgroup-v2": [("/", "unknown"), ("/data", "nvme")],
    "apple-m3-pro": [("/", "unknown"), ("/System/Volumes/Data", "unknown")],
    "windows-laptop": [("C:\\", "unknown"), ("Z:\\", "network")],
}


@pytest.mark.parametrize("name", DISKS)
def test_disks_under_encryption_and_volumes_and_of_virtual_machines(name: str, tmp_path: Path) -> None:
    disks = told(name, tmp_path).disks
    assert [(disk.mount, disk.kind) for disk in disks] == DISKS[name]
    assert all((disk.total_bytes is None) == (disk.kind == "network") for disk in disks)


def short(a: Accelerator) -> tuple[object, ...]:
    return (a.name, a.vendor, a.kind, a.memory_bytes, a.free_bytes, a.driver, a.unified_memory)


ACCELERATORS = {
    "epyc-vm": [],
    "no-sensors": [],
    "xeon-amx-two-sockets": [("Intel NPU 8086:1020", "intel", "npu", None, None, None, None)],
    "intel-hybrid-laptop": [
        ("Intel Raptor Lake-P [Iris Xe Graphics]", "intel", "gpu", None, None, "i915", True),
    ],
    "wsl2-nvidia": [("NVIDIA GeForce RTX 3080", "nvidia", "gpu", 10737418240, 9300000000, "566.36", False)],
    "nvidia-spark": [("NVIDIA GB10", "nvidia", "gpu", None, None, "580.95.05", None)],
    "nvidia-no-driver": [("NVIDIA AD102 [GeForce RTX 4090]", "nvidia", "gpu", None, None, None, None)],
    "nvidia-nouveau": [("NVIDIA AD107 [GeForce RTX 4060]", "nvidia", "gpu", None, None, "nouveau", None)],
    "amd-gpu-and-apu": [
        ("AMD Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]", "amd", "gpu", 25753026560, 24464536372, "amdgpu",
         False),
        ("AMD Phoenix3", "amd", "gpu", 536870912, 416870912, "amdgpu", True),
        ("AMD NPU 1022:1502", "amd", "npu", None, None, "amdxdna", True),
    ],
    "intel-arc-npu": [
        ("Intel Meteor Lake-P [Intel Arc Graphics]", "intel", "gpu", None, None, "xe", True),
        ("Intel Meteor Lake NPU", "intel", "npu", None, None, "intel_vpu", True),
        ("Intel DG2 [Arc A770]", "intel", "gpu", 0x3FA000000, None, "xe", False),
    ],
    "apple-m3-pro": [("Apple M3 Pro (14 cores)", "apple", "gpu", None, None, "Metal 3", True)],
    "mac-intel": [
        ("Intel UHD Graphics 630", "intel", "gpu", 1536 * 2**20, None, None, None),
        ("AMD Radeon Pro 5300M", "amd", "gpu", 2**32, None, None, None),
    ],
    "windows-laptop": [
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "nvidia", "gpu", 8585740288, 7900000000, "566.36", False),
        ("Intel(R) Arc(TM) Graphics", "intel", "gpu", 134217728, None, "32.0.101.6299", None),
        ("Intel(R) AI Boost", "intel", "npu", None, None, "32.0.100.3104", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ACCELERATORS)
def test_accelerators(name: str, tmp_path: Path) -> None:
    assert [short(a) for a in told(name, tmp_path).accelerators] == ACCELERATORS[name]


PROBLEMS = {
    "nvidia-no-driver": [("NVML", "not installed", "GeForce RTX 4090", "0000:01:00.0")],
    "nvidia-nouveau": [("nouveau", "CUDA")],
    "nvidia-module-not-loaded": [("not loaded", "modprobe", "GeForce RTX 4090")],
    "nvidia-version-mismatch": [("different versions", "restart", "580.82.07")],
    "nvidia-no-permission": [("this account may not", "/dev/nvidia")],
    "nvidia-two-one-lost": [("GPU 1", "fallen off the bus"), ("2 NVIDIA GPUs", "shows 1")],
    "amd-gpu-and-apu": [("/dev/kfd", "usermod -aG render")],
    "intel-arc-npu": [("/dev/dri/renderD128", "may not"), ("NPU", "/dev/accel/accel0")],
    "intel-npu-no-driver": [("Meteor Lake NPU", "no driver")],
    "mac-profiler-silent": [("GPUs are unknown", "system_profiler")],
    "no-sensors": [("number of processor cores", "unknown"), ("size of the memory", "unknown")],
    "xeon-amx-two-sockets": [("0000:c1:00.0", "no driver")],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_keeps_a_device_from_being_used_is_said(name: str, tmp_path: Path) -> None:
    """Every problem is there with these words, and no other; machines that are well have none."""
    problems = told(name, tmp_path).problems
    expected = PROBLEMS.get(name, [])
    assert len(problems) == len(expected), problems
    for problem, words in zip(problems, expected, strict=True):
        assert all(word in problem for word in words), problem


@pytest.mark.parametrize("name", NAMES)
def test_every_recording_survives_its_json(name: str, tmp_path: Path) -> None:
    """What one machine prints another reads: the same value, nothing contradictory in it."""
    machine = told(name, tmp_path)
    assert decode(encode(machine)) == machine
    assert contradictions(machine) == []


def test_slow_answers_of_a_mac_are_kept_until_the_next_boot(tmp_path: Path) -> None:
    recorded = Recorded.load("apple-m3-pro")
    asked: list[str] = []
    answer = recorded.output

    def counting(*argv: str, timeout_s: float = 5.0) -> str | None:
        asked.append(argv[0])
        return "{ sec = 1, usec = 0 }" if later and argv[-1] == "kern.boottime" else answer(*argv)

    later = False
    recorded.output = counting  # type: ignore[method-assign]
    first = survey(tmp_path, Probe.NEVER, recorded)
    second = survey(tmp_path, Probe.NEVER, recorded)
    assert asked.count("system_profiler") == 1
    assert second == first
    later = True
    survey(tmp_path, Probe.NEVER, recorded)
    assert asked.count("system_profiler") == 2


def test_unknown_stays_unknown(tmp_path: Path) -> None:
    """A machine without any sensor: every fact None or empty, and the words say so."""
    machine = told("no-sensors", tmp_path)
    assert machine.cpu == msgspec.structs.replace(type(machine.cpu)("riscv64"))
    assert (machine.bandwidth, machine.disks, machine.accelerators) == (None, (), ())
