"""Which engine can use what is asked of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.engines.devices import Reach, of_libraries, parse, reach, with_engines
from localfoundry.engines.fake import FakeEngine
from localfoundry.hardware.machine import Accelerator, Cpu, Machine, MemoryFacts

_LISTED = """ggml_cuda_init: found 1 CUDA devices:
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23000 MiB free)
  Vulkan1: AMD Radeon 780M Graphics (RADV PHOENIX) (15876 MiB, 15000 MiB free)
"""


def native(folder: Path, body: str) -> config.Settings:
    server = folder / "llama-server"
    server.write_text(f"#!/bin/sh\n{body}\n")
    server.chmod(0o755)
    return config.load({"llama_server": str(server)})


def test_the_list_of_a_native_server() -> None:
    expected = (("CUDA", "NVIDIA GeForce RTX 4090"), ("Vulkan", "AMD Radeon 780M Graphics (RADV PHOENIX)"))
    assert parse(_LISTED) == expected
    assert parse("Available devices:\n") == ()
    assert parse("error: unknown argument: --list-devices") == ()


def test_the_bundled_engine_uses_the_processor() -> None:
    assert [(one.engine, one.devices) for one in reach(config.load())] == [("llama.cpp (bundled)", ())]


def test_a_native_server_is_asked(tmp_path: Path) -> None:
    (found,) = reach(native(tmp_path, f"cat <<'X'\n{_LISTED}X"))
    gpus = (
        Accelerator("NVIDIA GeForce RTX 4090", "nvidia", "gpu"),
        Accelerator("AMD Radeon 780M Graphics", "amd", "gpu"),
        Accelerator("Intel NPU", "intel", "npu"),
    )
    machine = with_engines(Machine(1, "Linux", Cpu("x86_64"), MemoryFacts(), accelerators=gpus), (found,))
    assert [a.usable_by for a in machine.accelerators] == [("llama.cpp (native)",), ("llama.cpp (native)",), ()]


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$"])
def test_one_that_does_not_answer_is_unknown_and_not_without_devices(body: str, tmp_path: Path) -> None:
    (found,) = reach(native(tmp_path, body))
    assert found.devices is None
    assert "did not answer" in found.reason


def test_a_configured_server_that_is_not_there_is_said() -> None:
    (found,) = reach(config.load({"llama_server": "no-such-server"}))
    assert (found.devices, "no-such-server" in found.reason) == (None, True)


def test_an_npu_is_not_used_by_a_backend_for_gpus() -> None:
    sycl = Reach("llama.cpp (native)", ("gguf",), (("SYCL", "Intel Arc"),))
    assert sycl.uses(Accelerator("Intel Arc A770", "intel", "gpu"))
    assert not sycl.uses(Accelerator("Intel Meteor Lake NPU", "intel", "npu"))


class Library(FakeEngine):
    """An engine whose library is asked; `absent`: it is not installed."""

    formats = frozenset({"gguf"})

    def __init__(self, name: str, absent: str | None = None) -> None:
        super().__init__(name)
        self._absent = absent

    def missing(self) -> str | None:
        return self._absent


def test_a_library_that_is_not_installed_is_said_with_its_command() -> None:
    (found,) = of_libraries([Library("openvino", "not installed: pip install x"), FakeEngine()])
    assert (found.engine, found.devices, found.missing) == ("openvino", None, "not installed: pip install x")


def test_a_library_is_asked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is broken, as with a driver that does not fit, ends that process and not the command."""
    library = tmp_path / "onnxruntime.py"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider", "AzureExecutionProvider"]
    library.write_text(f"def get_available_providers():\n    return {providers!r}\n")
    (found,) = of_libraries([Library("onnx")])
    assert found.devices == (("CUDA", "what CUDA drives"),)
    assert found.uses(Accelerator("NVIDIA GeForce RTX 4090", "nvidia", "gpu"))
    assert not found.uses(Accelerator("AMD Radeon 780M Graphics", "amd", "gpu"))
    library.write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    (broken,) = of_libraries([Library("onnx")])
    assert broken.devices is None
    assert "libcuda.so.1" in broken.reason
