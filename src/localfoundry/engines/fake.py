"""A deterministic engine with fault switches, for tests and demonstrations of the service itself.

It enters by the same door as a real one: a `NAME.fake.json` file is imported like any model, and its switches say
how the worker behaves (`workers/fake.py` lists them). There are two of them, so that the choice between engines and
what happens when one fails can be tried: both take a model whose `architecture` is `twofold`, the first one the others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from localfoundry import __version__
from localfoundry.config import Settings
from localfoundry.engines import worker_words
from localfoundry.engines.base import LoadAccount, LoadRequest, ModelFacts, WorkerCommand
from localfoundry.errors import InvalidSetting
from localfoundry.store.manifest import Manifest

_DEFAULT_BYTES = 30_000_000
ARGUMENTS = ("--threads", "--batch-size", "--cache-type", "--speculate")
_TWOFOLD = "twofold"


class FakeEngine:
    """See the module. Switches under `on.NAME` of the file are for the engine of that name alone, those under
    `with.ARGUMENTS` for loads that have these words among their arguments (`with: {"--threads 2": {…}}`): a test plants
    there what an argument brings and costs.
    """

    formats = frozenset({"fake"})
    devices = frozenset({"CPU"})
    heartbeat = "/health"
    saves_state = False
    scoring: tuple[str, ...] | None = None

    def __init__(self, name: str = "fake") -> None:
        self.name = name

    def missing(self) -> str | None:
        return None

    def takes(self, facts: ModelFacts) -> str | None:
        if self.name == "fake" or facts.architecture == _TWOFOLD:
            return None
        return f"architecture {facts.architecture or 'unknown'} is not known to it"

    def memory(
        self, manifest: Manifest, model_path: Path, context: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> dict[str, int]:
        try:
            switches = json.loads(model_path.read_text(encoding="utf-8"))
            switches |= switches.get("on", {}).get(self.name, {})
        except (OSError, ValueError):  # gone or damaged: the load will tell
            switches = {}
        return {"cpu": int(switches.get("memory_bytes", _DEFAULT_BYTES))}

    def largest_context(
        self, manifest: Manifest, model_path: Path, room_bytes: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> int | None:
        return None

    def short_of_memory(self, log: str) -> bool:
        return "out of memory" in log

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        self.check_arguments(request.engine_arguments, request.model_id, settings)
        argv = [
            sys.executable,
            "-m",
            "localfoundry.workers.fake",
            "--model",
            str(request.model_path),
            "--engine",
            self.name,
            *(f"--argument={word}" for word in request.engine_arguments),
        ]
        argv += ["--alias", request.model_id, "--context", str(request.context)]
        argv += ["--socket", request.endpoint.path] if request.endpoint.path else ["--port", str(request.endpoint.port)]
        return WorkerCommand(tuple(argv), self.name, "CPU", "the file is a fake model")

    def check_arguments(self, arguments: tuple[str, ...], model: str, settings: Settings) -> None:
        unknown = [word for word in arguments if word.startswith("-") and word not in ARGUMENTS]
        if unknown:
            words = f"engineArguments of {model}: the fake engine has no argument {unknown[0]!r}"
            raise InvalidSetting(words, hint=f"possible: {', '.join(ARGUMENTS)}", param="model")

    def version(self, settings: Settings) -> str:
        return __version__

    def account(self, log: str) -> LoadAccount:
        return worker_words.account(log)

    def complaint(self, log: str) -> str:
        return worker_words.complaint(log)
