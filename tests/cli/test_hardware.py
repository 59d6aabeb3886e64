"""`foundry hardware` as a person and as a program sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hardware.recorded import Recorded
from harness import Foundry
from localfoundry import config
from localfoundry.cli.hardware import folded
from localfoundry.cli.main import run
from localfoundry.hardware import survey
from localfoundry.hardware.machine import decode

Play = Callable[[str], str]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """The output for a recorded machine."""

    def play(name: str) -> str:
        recorded = Recorded.load(name)
        real = survey.survey
        with monkeypatch.context() as patched:
            patched.setattr(
                survey, "survey", lambda home, probe: real(home, survey.Probe.NEVER, recorded, recorded.nvml)
            )
            assert run(["hardware"]) == 0
        out, err = capsys.readouterr()
        return out + err

    return play


def test_the_real_command(foundry: Foundry) -> None:
    """Measured once, then kept; `--probe` measures again; the document can be read again."""
    first = foundry.ok("hardware", "--json")
    machine = decode(first.out.encode())
    assert machine.cpu.logical_cores
    kept = (config.load().home / "hardware.json").read_bytes()
    again = decode(foundry.ok("hardware", "--json").out.encode())
    assert again.bandwidth == machine.bandwidth
    probed = decode(foundry.ok("hardware", "--json", "--probe").out.encode())
    if machine.bandwidth is not None:
        assert probed.bandwidth is not None
        assert probed.bandwidth.measured_at >= machine.bandwidth.measured_at
        assert (config.load().home / "hardware.json").read_bytes() != kept
    words = foundry.ok("hardware").out
    for label in ("Processor", "Cores", "Instructions", "Memory", "Bandwidth", "llama.cpp (bundled)", "Disk"):
        assert label in words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intel-hybrid-laptop", ["12 physical, 16 logical; 4 performance and 8 efficiency cores", "network"]),
        ("container-cgroup-v2", ["(a container's limit; the machine has 67.4 GB)", "2 for this"]),
        ("nvidia-no-driver", ["GeForce RTX 4090", "none", "no engine here", "note: the library of the NVIDIA driver"]),
        ("apple-m3-pro", ["shares main memory", "Apple M3 Pro (14 cores)"]),
        ("no-sensors", ["unknown (riscv64)", "unknown number of physical", "unknown, unknown available", "none found"]),
    ],
)  # fmt: skip
def test_words_for_a_person(name: str, words: list[str], played: Play) -> None:
    text = played(name)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("room", [20, 40, 59, 60, 80, 200])
def test_lines_fold_on_a_narrow_terminal(room: int) -> None:
    """No line is wider, and no word is lost."""
    facts = [("Instructions", "F16C, FMA, AVX, AVX2, AVX-512F, AVX512-VNNI, AVX512-BF16"), ("Memory", "25.3 GB")]
    lines = folded(facts, room)
    assert all(len(line) <= room for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(f"{label} {value}" for label, value in facts)


def test_settings_that_are_wrong_do_not_hide_the_machine(isolated: Path) -> None:
    home = isolated / "foundry"
    home.mkdir()
    (home / "settings.json").write_text("{broken")
    assert Foundry().ok("hardware", "--json").json["schema"] == 1
