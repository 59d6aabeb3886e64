"""A deterministic engine with fault switches, for tests and demonstrations of the service itself.

It enters by the same door as a real one: a `NAME.fake.json` file is imported like any model, and its switches say
how the worker behaves (`workers/fake.py` lists them).
"""

from __future__ import annotations

import sys

from localfoundry import __version__
from localfoundry.config import Settings
from localfoundry.engines.base import LoadAccount, LoadRequest, WorkerCommand


class FakeEngine:
    """See the module."""

    name = "fake"
    formats = frozenset({"fake"})

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        argv = [sys.executable, "-m", "localfoundry.workers.fake", "--model", str(request.model_path)]
        argv += ["--alias", request.model_id, "--context", str(request.context)]
        argv += ["--socket", request.endpoint.path] if request.endpoint.path else ["--port", str(request.endpoint.port)]
        return WorkerCommand(tuple(argv), "fake", "CPU", "the file is a fake model")

    def version(self, settings: Settings) -> str:
        return __version__

    def account(self, log: str) -> LoadAccount:
        return LoadAccount()

    def complaint(self, log: str) -> str:
        return "; ".join(line.strip() for line in log.splitlines()[-2:])
