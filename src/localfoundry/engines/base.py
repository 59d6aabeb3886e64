"""The contract between the service and an engine.

An engine turns a load request into a command line. The process it starts is an OpenAI-compatible HTTP server on the
given endpoint that answers `GET /health` with 200 once the model is ready, ends when its standard input closes, and
writes its own words to standard error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from localfoundry.config import Settings
from localfoundry.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a worker listens: a Unix socket in a private folder, or loopback with a secret where there are none."""

    path: str | None = None
    port: int = 0
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model to load: `context` tokens are shared by `parallel` requests; `tasks` come from the version.

    `engine_arguments` are a person's own for this model; an engine refuses by name what it cannot or may not take.
    """

    model_id: str
    model_path: Path
    endpoint: Endpoint
    context: int
    parallel: int
    tasks: tuple[str, ...] = ("chat",)
    state_dir: Path | None = None  # where conversations are saved to and restored from; None: that was not asked for
    engine_arguments: tuple[str, ...] = ()
    device: str = "CPU"  # one of the engine's `devices`; a worker whose machine has none of them says so and ends
    one_stream: bool = False  # it is for one conversation at a time, though `parallel` requests may come


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What decides which engines can run a model. None or empty: not known, which speaks against no engine.

    `architecture` is `general.architecture` of a GGUF or the type that a folder's configuration names; `tensor_types`
    are those of the weights in GGUF's words, such as `Q4_1`.
    """

    format: str
    architecture: str | None = None
    tensor_types: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ("chat",)


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """A process to start, and the words for `--verbose`: which engine, on what, and why."""

    argv: tuple[str, ...]
    engine: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadAccount:
    """What an engine says of a load: bytes by purpose (`weights`, `kv_cache`, `compute`) and its own seconds."""

    memory: dict[str, int] = field(default_factory=dict)
    load_s: float | None = None


class Engine(Protocol):
    name: str
    formats: frozenset[str]
    devices: frozenset[str]  # kinds that a load can ask for: CPU, GPU, NPU
    heartbeat: str  # a path that is answered only while the part that computes is alive
    saves_state: bool  # whether it can save and restore the conversations in its memory
    scoring: tuple[str, ...] | None  # arguments with which it scores a whole prompt (`echo`); None: it never does

    def missing(self) -> str | None:
        """Why it cannot be used here at all, with the command that mends it; None: it can.

        Asked by every list of models: it looks whether the library is there and does not import it.
        """
        ...

    def takes(self, facts: ModelFacts) -> str | None:
        """Why it cannot run a model of one of its formats, as far as that shows without loading; None: it can.

        Tensor types that it reads, but badly, are no reason: `faithful.py` holds those.
        """
        ...

    def memory(
        self, manifest: Manifest, model_path: Path, context: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> dict[str, int]:
        """Bytes by device that a load is predicted to take; `arguments` are a person's own for the engine."""
        ...

    def largest_context(
        self, manifest: Manifest, model_path: Path, room_bytes: int, parallel: int, arguments: tuple[str, ...] = ()
    ) -> int | None:
        """The largest context, up to what the model was trained for, that fits so much memory; None: not known."""
        ...

    def short_of_memory(self, log: str) -> bool:
        """Whether what a worker wrote before it gave up says that memory was the cause."""
        ...

    def command(self, request: LoadRequest, settings: Settings) -> WorkerCommand:
        """The worker to start. Raises InvalidSetting where a configured engine is not there, or an argument wrong."""
        ...

    def check_arguments(self, arguments: tuple[str, ...], model: str, settings: Settings) -> None:
        """Raise InvalidSetting where a load of this model with these arguments of a person would."""
        ...

    def version(self, settings: Settings) -> str:
        """The version of what `command` would start, in the engine's own words; `unknown` where it does not tell."""
        ...

    def account(self, log: str) -> LoadAccount:
        """Memory and time of a load, read from what the worker wrote while it loaded."""
        ...

    def complaint(self, log: str) -> str:
        """The engine's own words for why a load failed: one or two lines out of its log."""
        ...
