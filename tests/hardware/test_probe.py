"""The probe of the memory's speed, on this machine; what is kept of it, and when it is left out."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from hardware.recorded import Recorded
from localfoundry.hardware import bandwidth, memory
from localfoundry.hardware.bandwidth import _Window, best
from localfoundry.hardware.machine import Bandwidth, Cpu, MemoryFacts
from localfoundry.hardware.readings import ThisSystem
from localfoundry.hardware.survey import Probe, survey


def fake(rate: float = 2e10, share: float = 1.0) -> Bandwidth:
    return Bandwidth(rate, 2, share, 2**28, 1.7e9, "by hand")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Bandwidth]:
    """What the probe says in turn, from the end; empty: it must not be asked."""
    answers: list[Bandwidth] = []
    monkeypatch.setattr(bandwidth, "measure", lambda cpu, facts: (answers.pop(), None))
    return answers


def test_the_probe_is_plausible_on_this_machine() -> None:
    """Between 1 GB/s and 2 TB/s, with a buffer that no cache holds, and over soon: no figure of speed, a bound."""
    started = time.monotonic()
    found = bandwidth._run(2, 2**26)
    assert time.monotonic() - started < 3, "the probe is planned for 0.3 s"
    assert 1e9 < found.bytes_per_s < 2e12
    assert found.threads == 2
    assert found.buffer_bytes >= 2 * bandwidth._PIECE
    assert found.share is None or 0 < found.share <= 1


def test_the_plan_of_the_probe_is_within_its_bound() -> None:
    assert bandwidth._FILL_S + bandwidth._WINDOWS * bandwidth._WINDOW_S <= 0.25, (
        "the rest is for threads and for giving the pages back"
    )


def test_the_rate_is_bytes_over_time_in_the_best_window() -> None:
    slow = [_Window(100, 1.0, 2.0), _Window(100, 1.0, 2.0)]
    fast = [_Window(300, 1.5, 2.0), _Window(100, 1.0, 1.0)]
    assert best([slow, fast, slow]) == (250.0, 0.875)


def test_with_little_memory_it_is_left_out_and_that_is_said() -> None:
    found, words = bandwidth.measure(Cpu("x86_64"), MemoryFacts(2**32, 900_000_000))
    assert found is None
    assert words is not None
    assert "900.0 MB" in words
    assert "1.0 GB" in words
    found, words = bandwidth.measure(Cpu("x86_64"), MemoryFacts())
    assert found is None
    assert words is not None
    assert "not known" in words


def test_a_machine_that_leaves_no_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache larger than what the probe fills, and a processor that is busy: the figure comes with the doubt."""
    cpu, facts = Cpu("x86_64", cache_bytes=2**29), MemoryFacts(2**33, 2**33)
    monkeypatch.setattr(bandwidth, "_run", lambda threads, size: fake())
    found, words = bandwidth.measure(cpu, facts)
    assert found is None, "what a cache can do was told as the memory's speed"
    assert "not measured" in (words or "")
    cpu = Cpu("x86_64", cache_bytes=2**28)
    assert "may be slower" in (bandwidth.measure(cpu, facts)[1] or "")
    monkeypatch.setattr(bandwidth, "_run", lambda threads, size: fake(share=0.5))
    assert "50%" in (bandwidth.measure(cpu, facts)[1] or "")
    assert bandwidth.measure(Cpu("x86_64"), facts)[0] == fake(share=0.5)


def test_threads_are_cores_that_this_process_may_use() -> None:
    assert bandwidth._threads(Cpu("x86_64", physical_cores=8, logical_cores=16, usable=16)) == 8
    assert bandwidth._threads(Cpu("x86_64", physical_cores=8, logical_cores=16, usable=3)) == 3
    assert bandwidth._threads(Cpu("x86_64", physical_cores=500, logical_cores=500)) == 64
    assert bandwidth._threads(Cpu("x86_64")) == 1


def test_it_is_measured_once_and_again_when_asked(tmp_path: Path, measured: list[Bandwidth]) -> None:
    recorded = Recorded.load("epyc-vm")
    measured[:] = [fake(3e10), fake(2e10)]
    assert survey(tmp_path, Probe.NEVER, recorded).bandwidth is None
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(2e10)
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(2e10)
    assert survey(tmp_path, Probe.AGAIN, recorded).bandwidth == fake(3e10)
    assert survey(tmp_path, Probe.NEVER, recorded).bandwidth == fake(3e10)


@pytest.mark.parametrize(
    ("path", "text"),
    [("/proc/sys/kernel/random/boot_id", "other"), ("/proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB"),
     ("/proc/self/status", "Cpus_allowed_list:\t0"), ("/proc/cpuinfo", "processor: 0\nmodel name: other")],
)  # fmt: skip
def test_another_machine_is_measured_anew(path: str, text: str, tmp_path: Path, measured: list[Bandwidth]) -> None:
    measured[:] = [fake(3e10), fake(2e10)]
    recorded = Recorded.load("epyc-vm")
    survey(tmp_path, Probe.ONCE, recorded)
    recorded._files[path] = text
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(3e10)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 2}', b"\xff" * 100, b"[" * 9999])
def test_a_damaged_file_is_measured_over(content: bytes, tmp_path: Path, measured: list[Bandwidth]) -> None:
    (tmp_path / "hardware.json").write_bytes(content)
    measured[:] = [fake()]
    assert survey(tmp_path, Probe.ONCE, Recorded.load("epyc-vm")).bandwidth == fake()
    assert survey(tmp_path, Probe.ONCE, Recorded.load("epyc-vm")).bandwidth == fake()


def test_a_disturbed_measurement_is_mended_later(
    tmp_path: Path, measured: list[Bandwidth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not within a minute, and never by one that was disturbed more."""
    recorded, now = Recorded.load("epyc-vm"), [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    measured[:] = [fake(5e10, 0.9), fake(1e10, 0.2), fake(2e10, 0.5)]
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(2e10, 0.5)
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(2e10, 0.5)
    now[0] += 61
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(2e10, 0.5)
    now[0] += 61
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(5e10, 0.9)
    now[0] += 61
    assert survey(tmp_path, Probe.ONCE, recorded).bandwidth == fake(5e10, 0.9)


def test_a_folder_that_cannot_be_written_costs_only_the_memory_of_it(tmp_path: Path, measured: list[Bandwidth]) -> None:
    (tmp_path / "file").write_text("")
    measured[:] = [fake()]
    machine = survey(tmp_path / "file" / "home", Probe.ONCE, Recorded.load("epyc-vm"))
    assert machine.bandwidth == fake()
    assert any("could not be kept" in problem for problem in machine.problems)
    assert not any(str(tmp_path) in problem for problem in machine.problems), "the document goes to other machines"


def test_this_machine(tmp_path: Path) -> None:
    """The real one: what any machine that runs these tests has."""
    machine = survey(tmp_path, Probe.NEVER)
    assert machine.cpu.logical_cores
    assert machine.cpu.usable
    assert machine.memory.total_bytes
    assert machine.memory.available_bytes
    assert machine.memory.total_bytes > 10**8
    facts = memory.read(ThisSystem())
    assert msgspec.structs.replace(facts, available_bytes=0) == msgspec.structs.replace(
        machine.memory, available_bytes=0
    )


def test_a_measurement_in_vain_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without one before, the next try is a minute away: a busy machine is not asked at every command."""
    recorded, answers, asked = Recorded.load("epyc-vm"), [(None, "no time"), (fake(), None), (None, "no time")], [0]

    def answer(cpu: Cpu, facts: MemoryFacts) -> tuple[Bandwidth | None, str | None]:
        asked[0] += 1
        return answers.pop()

    monkeypatch.setattr(bandwidth, "measure", answer)
    for _ in range(2):
        machine = survey(tmp_path, Probe.ONCE, recorded)
        assert (machine.bandwidth, machine.problems, asked) == (None, ("no time",), [1])
    assert survey(tmp_path, Probe.AGAIN, recorded).bandwidth == fake()
    machine = survey(tmp_path, Probe.AGAIN, recorded)
    assert (machine.bandwidth, machine.problems, asked) == (fake(), ("no time",), [3])
