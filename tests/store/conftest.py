"""What most tests of the store start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub_server import HubServer, Repo
from localfoundry import config
from localfoundry.store.store import Store


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository of one file: the `DATA` of the test's module."""
    with HubServer() as server:
        server.repos["org/tiny-GGUF"] = Repo({"tiny-Q4_0.gguf": request.module.DATA})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def store() -> Store:
    return Store(config.load().models_dir)
