"""One service for the tests of a module: what they share is a process and a store, never a model's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.server import Server

ENGINES = ("llama.cpp", "openvino", "onnx")  # the suites on the real model are the same for all of them
_AT_ONCE = ("fake", "llama.cpp", "openvino")  # the others run all of it in `make test-engines` alone


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses `engine`, by itself or through a service, runs once for each.

    A module may name its own engines (ENGINES) and those of them that are not left to `make test-engines` (AT_ONCE). A
    test that is marked `quick` is left to it for none.
    """
    if "engine" not in metafunc.fixturenames:
        return
    quick = metafunc.definition.get_closest_marker("quick") is not None
    at_once = getattr(metafunc.module, "AT_ONCE", _AT_ONCE)
    cases = [
        pytest.param(engine, marks=() if quick or engine in at_once else pytest.mark.thorough)
        for engine in getattr(metafunc.module, "ENGINES", ENGINES)
    ]
    metafunc.parametrize("engine", cases, scope="module")


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
def starter_store(engine: str, request: pytest.FixtureRequest) -> Path:
    """A folder of models with the starter model as that engine reads it."""
    name = "onnx_starter" if engine == "onnx" else "reencoded_starter"
    return Path(request.getfixturevalue(name))


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
