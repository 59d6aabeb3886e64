"""Cheap commands stay cheap: they import neither a server nor an engine nor anything that draws."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {
    "httpx2", "huggingface_hub", "starlette", "uvicorn", "asyncio", "rich", "prompt_toolkit", "xllamacpp", "psutil",
    "prometheus_client", "opentelemetry",
}  # fmt: skip
_PROGRAM = """
import sys
from localfoundry.__main__ import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line",
    [
        "", "--help", "--version", "model --help", "model list", "cache list", "cache location", "service status",
        "config", "config list", "config get port", "config set port 0",
        "eval --help",
    ],
)  # fmt: skip
def test_a_cheap_command_imports_nothing_heavy(line: str) -> None:
    """`foundry --help` once took 0.33 s, because listing the commands imported the HTTP client with them."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *line.split()],
        capture_output=True, text=True, timeout=30, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not HEAVY & set(done.stderr.split())
