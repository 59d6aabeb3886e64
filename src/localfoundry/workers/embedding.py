"""The vectors of one request, computed some texts at a time: between two batches the loop looks at its connections."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable, Sequence
from typing import Any

from localfoundry.workers.generation import Backend, Refused
from localfoundry.workers.http import Connection

_BATCH_TEXTS = 32
_BATCH_TOKENS = 2048  # with what fills shorter texts up; a long text may be more alone


class Embedding:
    """`done` is told the vectors in the order of the prompts; `broken` that the library failed, which ends the worker.

    Nothing more is computed once the client has gone.
    """

    def __init__(
        self, to: Connection, backend: Backend, prompts: Sequence[Sequence[int]],
        done: Callable[[list[list[float]]], None], broken: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._to = to
        self._backend = backend
        self._prompts = prompts
        self._done = done
        self._broken = broken
        self._vectors: list[list[float]] = [[] for _ in prompts]
        self._batches = batches(prompts)
        self._loop = asyncio.get_running_loop()
        to.gone = self._batches.clear

    def step(self) -> None:
        """Compute a batch, and ask for the next one. Raises Refused where the model has no vectors."""
        if not self._batches:
            return
        places = self._batches.pop(0)
        try:
            vectors = self._backend.embed([self._prompts[place] for place in places])
        except Refused:
            self._to.gone = None
            raise
        except Exception as exc:  # noqa: BLE001 the worker's top loop: no library is whole after this
            self._batches.clear()
            self._to.gone = None
            self._to.refuse(500, "the engine failed", "server_error")
            self._broken(exc)
            return
        for place, vector in zip(places, vectors, strict=True):
            self._vectors[place] = vector
        if self._batches:
            self._loop.call_soon(self.step)
        else:
            self._to.gone = None
            self._done(self._vectors)


def batches(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of the prompts that are computed together: those of about one length, since the shorter are filled up."""
    found: list[list[int]] = []
    for place in sorted(range(len(prompts)), key=lambda place: -len(prompts[place])):
        longest = len(prompts[found[-1][0]]) if found else 0
        if found and len(found[-1]) < _BATCH_TEXTS and longest * (len(found[-1]) + 1) <= _BATCH_TOKENS:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def written(vectors: Sequence[Sequence[float]], encoding: str | None) -> list[dict[str, Any]]:
    """`data` of the answer; base64 is of little-endian float32."""
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(vectors):
        form: Any = vector
        if encoding == "base64":
            form = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": form})
    return data
