"""One service for the tests of a module: what they share is a process and a store, never a model's state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.server import Server

# The suite on the real model is the same for all of them. ONNX takes part where there is a folder of the starter model,
# made by benchmarks/onnx_models.py: FOUNDRY_TEST_ONNX names it.
ENGINES = ("llama.cpp", "openvino", *(["onnx"] if "FOUNDRY_TEST_ONNX" in os.environ else []))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses `engine`, by itself or through a service, runs once for each."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ENGINES, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The mark `engines` of a test or of one of its cases, or else of its module, names those that it is for."""
    others = [item for item in items if not _is_meant(item)]
    if others:
        items[:] = [item for item in items if item not in set(others)]
        config.hook.pytest_deselected(items=others)


def _is_meant(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("engines")
    case = getattr(item, "callspec", None)
    return mark is None or case is None or case.params.get("engine") in (None, *mark.args)


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
