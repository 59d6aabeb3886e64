"""Killed at every step, the store is sound, and the same command again completes."""

from __future__ import annotations

from pathlib import Path

import crash_points


def test_adopting(tmp_path: Path) -> None:
    assert crash_points.run("crash_adopt", tmp_path) > 15


def test_importing_a_bundle(tmp_path: Path) -> None:
    assert crash_points.run("crash_bundle", tmp_path) > 25
