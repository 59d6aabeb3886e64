"""Why OpenVINO finds no GPU or NPU: the first thing that is missing, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from localfoundry.workers.intel_devices import why_missing

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="the files are those of Linux")


def node(dev: Path, name: str) -> None:
    (dev / name).parent.mkdir(parents=True, exist_ok=True)
    (dev / name).touch()


_GPU, _NPU = "is not there, a part of Intel's graphics driver", "is not there, a part of Intel's NPU driver"
_OLD = "it is there (renderD128), but is none of Intel, or Intel's graphics driver is too old for it"


@pytest.mark.parametrize(
    ("device", "there", "words"),
    [
        ("GPU", None, "the kernel shows no GPU (driver i915 or xe)"),
        ("NPU", None, "the kernel shows no NPU (driver intel_vpu)"),
        ("GPU", "", f"libOpenCL.so.1 {_GPU}: sudo apt install ocl-icd-libopencl1"),
        ("GPU.1", "libOpenCL.so.1", f"libigdrcl.so {_GPU}: sudo apt install intel-opencl-icd"),
        ("NPU", "libze_loader.so.1", f"libze_intel_npu.so.1 {_NPU}: sudo apt install intel-level-zero-npu"),
        ("GPU", "libOpenCL.so.1 libigdrcl.so", _OLD),
    ],
)
def test_the_first_that_is_missing_is_named(tmp_path: Path, device: str, there: str | None, words: str) -> None:
    if there is not None:
        node(tmp_path, "dri/renderD128")
        node(tmp_path, "accel/accel0")
    assert why_missing(device, tmp_path, lambda library: library in (there or "").split()) == words


def test_a_device_that_this_account_may_not_open_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(tmp_path, "dri/renderD128")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    words = "this account may not use the GPU (renderD128): sudo usermod -aG render $USER"
    assert why_missing("GPU", tmp_path) == words


def test_of_a_device_that_it_does_not_know_nothing_is_said() -> None:
    assert why_missing("CPU") == ""
