"""The benchmark of the report runs through; what it finds of so few samples means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "report.py"


def test_the_report_is_timed_from_the_file_to_the_page(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--models", "2", "--samples", "58", "--rounds", "1", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text())["settings"]["samples"] == 116
