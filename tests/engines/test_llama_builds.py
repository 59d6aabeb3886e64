"""Builds of llama.cpp by name: which are here, which one a load takes, and what speaks against one."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import msgspec
import pytest

from harness import executable, native_on_path
from localfoundry import config
from localfoundry.build import installed
from localfoundry.cli.bench_local import OwnService
from localfoundry.config import Settings
from localfoundry.engines import llama_builds

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs that are played are scripts")
NAME = "7.0.0-cpu"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return native_on_path(tmp_path, monkeypatch)


def build(settings: Settings, machine: str = platform.machine()) -> None:
    made = installed.Build(
        NAME, "7.0.0", "7", "0" * 64, "cpu", machine, platform.system(), (), "a processor", "cc", (), "2026", 1, 1
    )
    executable(installed.program(settings, made, "llama-server"))
    (installed.folder(settings, made) / "build.json").write_bytes(msgspec.json.encode(made))


def settings(wanted: str = "auto") -> Settings:
    return config.load({"llama_server": wanted})


def test_without_a_native_one_the_bundled_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert llama_builds.here(settings()) == ["bundled"]


def test_the_one_in_use_comes_first_and_one_of_the_other_kind_beside_it(on_path: Path) -> None:
    assert llama_builds.here(settings()) == ["llama-server", "bundled"]
    assert llama_builds.here(settings("bundled")) == ["bundled", "llama-server"]
    build(settings())
    assert llama_builds.here(settings()) == [NAME, "bundled"]
    assert llama_builds.here(settings("bundled")) == ["bundled", NAME], "the native one that `auto` takes"
    assert llama_builds.here(settings("llama-server")) == ["llama-server", "bundled"]


def test_a_program_named_by_its_path_has_no_name_to_be_kept(tmp_path: Path) -> None:
    own = executable(tmp_path / "elsewhere" / "llama-server")
    assert llama_builds.here(settings(str(own))) == [None, "bundled"]
    assert llama_builds.chosen(settings(str(own)), None).llama_server == str(own)


def test_what_speaks_against_a_build_ends_with_the_command_that_changes_it(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(settings(), machine="z80")
    assert "it was built for" in (llama_builds.why_not(settings(), NAME) or "")
    assert (llama_builds.why_not(settings(), "9.9.9-cpu") or "").endswith(
        "it is not here: foundry engine install llama.cpp --native"
    )
    assert llama_builds.why_not(settings(), "llama-server") is None
    on_path.unlink()
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert "on the PATH any more" in (llama_builds.why_not(settings(), "llama-server") or "")


def test_a_service_of_its_own_takes_the_build_that_is_kept_in_the_home_of_the_other() -> None:
    """What was measured in one was the bundled llama.cpp, whatever build the service in use had."""
    build(settings())
    own = OwnService(settings())
    try:
        native, _ = llama_builds.server(own._settings)
        assert native == installed.program(settings(), installed.builds(settings())[0], "llama-server")
    finally:
        own.remove()
