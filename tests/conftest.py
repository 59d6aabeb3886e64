"""Every test runs in its own home, offline as far as the product knows, and leaves no process behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_KEEP = {"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT", "CI"}
_KEEP_PREFIXES = ("PIP_", "SSL_", "COVERAGE_", "PYTEST_")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HOME and FOUNDRY_HOME, no inherited settings, no token, no proxy."""
    for name in list(os.environ):
        if name not in _KEEP and not name.startswith(_KEEP_PREFIXES):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FOUNDRY_HOME", str(home / "foundry"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return home
