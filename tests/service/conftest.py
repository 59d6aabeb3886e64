"""A service without its HTTP API, and models that several fake engines take."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.catalog.lookup import Catalog
from localfoundry.service.service import Service
from localfoundry.store.store import Store


@pytest.fixture
async def running(isolated: Path) -> AsyncIterator[Service]:
    settings = config.load()
    settings.log_dir.mkdir(parents=True)
    sockets = Path(tempfile.mkdtemp())
    made = Service(settings, Catalog.load(), Store(settings.models_dir), sockets)
    yield made
    await made.close()
    assert not sockets.exists()  # noqa: ASYNC240 nothing else runs now
