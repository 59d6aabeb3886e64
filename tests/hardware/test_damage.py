"""Whatever a system says, damaged or hostile: no reader raises, and none invents."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.recorded import MACHINES, Nvml, Recorded
from localfoundry.errors import InvalidMachine
from localfoundry.hardware import cgroup, cpu, windows
from localfoundry.hardware.machine import Machine, contradictions, decode, encode
from localfoundry.hardware.readings import cpu_list, whole
from localfoundry.hardware.survey import Probe, survey

NAMES = sorted(path.stem for path in MACHINES.glob("*.txt"))
LENIENT = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LENIENT
@given(name=st.sampled_from(NAMES), seed=st.randoms(use_true_random=False), junk=st.text(max_size=40))
def test_damaged_answers_never_raise_and_never_contradict(tmp_path: Path, name: str, seed: object, junk: str) -> None:
    """Every file and every program's output cut, replaced or gone, in any mixture; what is told can be read again."""
    recorded = Recorded.load(name)
    for answers in (recorded._files, recorded._calls):
        for key in list(answers):
            if key.startswith(("space", "memory", "nvml")):
                continue  # numbers of a call of the system, not texts
            choice = seed.random()  # type: ignore[attr-defined]
            if choice < 0.1:
                answers[key] = answers[key][: int(choice * 10 * len(answers[key]))]
            elif choice < 0.2:
                answers[key] = junk
            elif choice < 0.25:
                answers[key] = answers[key].replace("1", "99999999999999999999")
            elif choice < 0.3:
                del answers[key]
    machine = survey(tmp_path / "none", Probe.NEVER, recorded, recorded.nvml)
    assert decode(encode(machine)) == machine
    assert contradictions(machine) == []


@given(st.text())
def test_any_cpuinfo_is_read(text: str) -> None:
    cpu.cpuinfo(text)
    recorded = Recorded("# system Linux x86_64\n")
    recorded._files["/proc/cpuinfo"] = text
    found = cpu.linux(recorded)
    if "processor" not in text:
        assert (found.logical_cores, found.physical_cores, found.instructions) == (None, None, None)


@given(st.text(alphabet="0123456789-, x\n", max_size=30))
def test_lists_of_processors_are_bounded(text: str) -> None:
    assert len(cpu_list(text)) <= 2**16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("5", {5}),
        *((text, set()) for text in ("", "3-1", "0-99999999", "0-", "a", "1,", "1,b")),
    ],
)
def test_a_list_of_processors_is_whole_or_nothing(text: str, expected: set[int]) -> None:
    assert cpu_list(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("42", 42), (" 7\n", 7), ("-1", None), ("max", None), ("9" * 30, None)])
def test_numbers(text: str, expected: int | None) -> None:
    assert whole(text) == expected


@given(st.binary(max_size=200))
def test_any_bytes_for_the_topology_of_windows(content: bytes) -> None:
    windows.parse_topology(content)


def _core(level: int, mask: int) -> bytes:
    return struct.pack("<IIBB20xHQHHHH", 0, 48, 1 if mask.bit_count() > 1 else 0, level, 1, mask, 0, 0, 0, 0)


def test_the_topology_of_a_hybrid_windows_laptop() -> None:
    """Two fast cores with two threads each, four slow ones; 12 MiB of third-level cache beside smaller ones."""
    cache = struct.pack("<IIBBHI", 2, 56, 3, 16, 64, 12 * 2**20).ljust(56, b"\0")
    small = struct.pack("<IIBBHI", 2, 56, 1, 8, 64, 48 * 2**10).ljust(56, b"\0")
    content = _core(1, 0b11) + _core(1, 0b1100) + b"".join(_core(0, 1 << n) for n in range(4, 8)) + small + cache
    found = windows.parse_topology(content)
    assert found == windows.Topology({1: 2, 0: 4}, 8, 12 * 2**20)
    told = windows.cpu(Recorded.load("windows-laptop"), found, [40, 39])
    assert (told.physical_cores, told.performance_cores, told.efficiency_cores) == (6, 2, 4)
    assert told.instructions == ("AVX", "AVX2")
    assert windows.parse_topology(content[:-1]) is None


@pytest.mark.parametrize("code", range(1, 32))
def test_every_error_of_nvml_is_told(code: int, tmp_path: Path) -> None:
    """At the start and of a single GPU; the words are a sentence and not a number where the cause has a mend."""
    recorded = Recorded.load("nvidia-version-mismatch")
    for told in ({"init": code}, {"driver": "1", "gpus": [{"error": code}]}):
        machine = survey(tmp_path, Probe.NEVER, recorded, Nvml(told))
        assert machine.problems
        assert [a.driver for a in machine.accelerators] == [None]


def test_a_limit_whose_use_cannot_be_read_still_counts() -> None:
    recorded = Recorded("# system Linux x86_64\n--- /sys/fs/cgroup/memory.max\n1000\n")
    assert cgroup.memory_limit(recorded, 2000) == (1000, None)
    assert cgroup.memory_limit(recorded, 1000) is None, "a limit as large as the machine is none"


_RATE = {"bytesPerS": 1e10, "threads": 1, "share": 1, "bufferBytes": 1, "measuredAt": 0, "how": ""}


def _machine() -> dict[str, object]:
    return {
        "schema": 1,
        "system": "Linux",
        "cpu": {"architecture": "x86_64", "physicalCores": 4, "logicalCores": 8},
        "memory": {"totalBytes": 8_000_000_000, "availableBytes": 4_000_000_000},
    }


def test_fields_of_a_later_version_are_passed_over() -> None:
    document = _machine() | {"color": "red"}
    assert decode(json.dumps(document).encode()).cpu.logical_cores == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 2"),
        ({"schema": "1"}, "schema"),
        ({"memory": {"totalBytes": 2**60}}, "totalBytes"),
        ({"memory": {"totalBytes": -1}}, "totalBytes"),
        ({"memory": {"totalBytes": 1, "availableBytes": 2}}, "availableBytes (2) is more than totalBytes (1)"),
        ({"cpu": {"architecture": "x86_64", "physicalCores": 9, "logicalCores": 8}}, "physicalCores"),
        ({"cpu": {"architecture": "x" * 1000}}, "architecture"),
        ({"cpu": None}, "cpu"),
        ({"disks": [{"mount": "/"}] * 1000}, "disks"),
        ({"disks": [{"mount": "/", "kind": "floppy"}]}, "kind"),
        ({"bandwidth": _RATE | {"bytesPerS": 1e300}}, "bytesPerS"),
        ({"bandwidth": _RATE | {"bytesPerS": 0}}, "bytesPerS"),
        ({"bandwidth": _RATE | {"share": 2}}, "share"),
    ],
)
def test_hostile_descriptions_are_refused(change: dict[str, object], words: str) -> None:
    """Each with the name of the file and what is wrong with it."""
    with pytest.raises(InvalidMachine) as caught:
        decode(json.dumps(_machine() | change).encode(), "box.json")
    assert words in caught.value.message
    assert "box.json" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 10_000, b" " * 2**21])
def test_what_is_no_description_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidMachine):
        decode(content)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_machine_or_refused(content: bytes) -> None:
    with contextlib.suppress(InvalidMachine):
        assert isinstance(decode(content), Machine)
