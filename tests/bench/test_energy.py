"""Joules from counters that wrap, are shared with an idle machine, or are not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from localfoundry.bench.energy import Meter, Nvml, Rapl, open_meter


def zone(folder: Path, name: str, kind: str, energy_uj: int, wraps_at: int = 1_000_000) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    (made / "name").write_text(f"{kind}\n")
    (made / "energy_uj").write_text(f"{energy_uj}\n")
    (made / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return made


def test_packages_are_added_up_and_a_counter_that_starts_over_goes_on(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    rapl = Rapl(tmp_path)
    assert rapl.joules() == 0
    (first / "energy_uj").write_text("500\n")  # 999,000 -> 1,000,000 -> 0 -> 500
    (second / "energy_uj").write_text("250000\n")
    assert rapl.joules() == pytest.approx((1_001 + 500 + 250_000 - 0) / 1e6, abs=1e-5)


def test_idle_is_taken_off_and_nothing_is_below_zero() -> None:
    meter = Meter([SimpleNamespace(name="RAPL", joules=lambda: 0.0)], lambda: 0.0)
    meter.note_idle((0.0, 0.0), (2.0, 20.0))
    assert meter.idle_w == 10
    assert meter.spent((10.0, 100.0), (13.0, 190.0)) == pytest.approx(60)
    assert meter.spent((10.0, 100.0), (13.0, 101.0)) == 0
    assert meter.spent(None, (13.0, 101.0)) is None


def test_where_there_is_no_counter_the_word_is_unavailable(tmp_path: Path) -> None:
    meter = open_meter(lambda: 0.0, tmp_path)
    assert (meter.source, meter.read()) == ("unavailable", None)


def test_a_counter_that_stops_answering_becomes_unavailable(tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = open_meter(lambda: 0.0, tmp_path)
    assert meter.source == "RAPL"
    (made / "energy_uj").unlink()
    assert meter.read() is None
    assert meter.source == "unavailable"


class NvmlError(Exception):
    pass


def test_gpus_are_added_up_and_their_errors_are_ours() -> None:
    def energy(handle: int) -> int:
        if handle == 9:
            raise NvmlError("not supported")
        return 1500 + handle

    nvml = SimpleNamespace(
        NVMLError=NvmlError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetTotalEnergyConsumption=energy,
    )  # fmt: skip
    assert Nvml(nvml).joules() == pytest.approx(3.001)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: 9
    with pytest.raises(OSError, match="not supported"):
        Nvml(nvml)
    nvml.nvmlDeviceGetCount = lambda: 0
    with pytest.raises(FileNotFoundError):
        Nvml(nvml)
