"""Where a search starts from: the default, and every engine and build with every version that it reads faithfully."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.engines import choice, engines
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from localfoundry.tuning import files


def test_both_kinds_of_llama_cpp_are_ways_of_loading_a_file(
    starter: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "bin" / "llama-server"
    server.parent.mkdir()
    server.write_text("")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{server.parent}{os.pathsep}{os.environ['PATH']}")
    settings = config.load({"llama_server": "auto"})
    store, llama = Store(settings.models_dir), choice.named("llama.cpp", engines())
    base, _ = files.default(store, starter, settings)
    found = files.others(store, starter, settings, llama)
    assert base in found and base.label == "llama.cpp (llama-server) Q4_1"
    assert [one.label for one in found] == ["llama.cpp (llama-server) Q4_1", "llama.cpp (bundled) Q4_1"]
    assert found[0].changes_answers != found[1].changes_answers, "a build that is broken is not faithful"
