"""One service for the tests of a module: what they share is a process and a store, never a model's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running service of its own home with `fake`, a fast fake model."""
    made = Server(tmp_path_factory.mktemp("home"), FOUNDRY_MAX_BODY_BYTES=100_000, FOUNDRY_CONTEXT_LENGTH=2048)
    made.fake("fake", tokens_per_second=2000)
    yield made.start()
    made.stop()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes services, not yet started, each with a home of its own; they are ended after the test."""
    made: list[Server] = []

    def make(**settings: object) -> Server:
        home = tmp_path / f"home{len(made)}"
        home.mkdir()
        made.append(Server(home, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()
