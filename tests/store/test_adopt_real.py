"""A real model goes the whole way: adopted from Ollama's store, run, bundled, brought to another home, run there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness import Foundry
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from owner_stores import layer, ollama_manifest

_CACHE = Path(__file__).parent.parent.parent / ".cache" / "test-models"


@pytest.mark.real_model
def test_adopted_run_bundled_and_run_elsewhere(
    pulled_starter: Manifest, foundry: Foundry, isolated: Path, tmp_path: Path
) -> None:
    file = pulled_starter.files[0]
    root = isolated / ".ollama" / "models"
    entry = layer("model", f"sha256:{file.sha256}", file.size_bytes)
    ollama_manifest(root, json.dumps({"layers": [entry]}).encode(), "smollm2", "135m")
    blob = root / "blobs" / f"sha256-{file.sha256}"
    os.link(Store(_CACHE).main_file(pulled_starter), blob)
    foundry.ok("import", "smollm2:135m")
    text = ("--prompt", "What is the capital of France?", "--max-tokens", "12", "--seed", "1", "--temperature", "0")
    question = ("run", "smollm2-135m:1", *text)
    answer = foundry.ok(*question).out
    assert answer.strip()
    foundry.ok("bundle", "export", "smollm2-135m:1", str(tmp_path / "b"))
    foundry.ok("service", "stop")
    blob.unlink()  # the owner goes away, and the link of ours keeps the bytes
    assert "removed by ollama, kept here" in foundry.ok("cache", "list").out
    other = {"FOUNDRY_HOME": str(tmp_path / "elsewhere")}
    foundry.ok("bundle", "import", str(tmp_path / "b"), env=other)
    assert foundry.ok("cache", "list", "--json", env=other).json["models"][0]["adoption"] is None
    try:
        assert foundry.ok(*question, env=other).out == answer
    finally:
        foundry("service", "stop", env=other)
