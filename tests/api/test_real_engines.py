"""The choice of an engine on the real model: what an engine needs is made at its first load; an unload ends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.server import Server, text_of
from harness import wait_until
from localfoundry.store.manifest import Manifest

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

STARTER = "smollm2-135m"
_CACHE = Path(__file__).parents[2] / ".cache" / "test-models"
WISH = {"model": STARTER, "engine": "openvino"}


@pytest.fixture(scope="module")
def real(pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running service with the starter model alone, whose file OpenVINO misreads."""
    made = Server(tmp_path_factory.mktemp("real"), FOUNDRY_CONTEXT_LENGTH=512)
    shutil.copytree(_CACHE, made.settings.models_dir, copy_function=os.link)
    made.start()
    made.http.timeout = 100
    yield made
    made.stop()


def _preparing(real: Server) -> list[dict[str, Any]]:
    return list(real.get("/foundry/stats")["preparing"])


def test_a_re_encoding_at_a_load_is_seen_and_ended_by_an_unload(real: Server, pulled_starter: Manifest) -> None:
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(real.post, "/foundry/load", WISH, 400)
        [one] = wait_until(lambda: _preparing(real), 20, "no re-encoding is made")
        assert one["id"] == pulled_starter.id and one["words"].startswith("re-encoding to openvino, ")
        real.unload(STARTER)
        error = load.result()["error"]
    assert error["code"] == "load_failed" and "was unloaded while it was re-encoded" in error["message"]
    assert _preparing(real) == []
    assert [manifest.id for manifest in real.store.manifests()] == [pulled_starter.id]


def test_a_file_that_the_engine_misreads_is_re_encoded_and_answers_name_what_was_asked_for(
    real: Server, pulled_starter: Manifest
) -> None:
    loaded = real.post("/foundry/load", WISH)
    assert (loaded["engine_name"], loaded["id"], loaded["quantization"]) == ("openvino", pulled_starter.id, "Q8_0")
    made = next(manifest for manifest in real.store.manifests() if manifest.recipe)
    assert (loaded["file"], made.format) == (made.id, "openvino")
    assert loaded["sha256"] in {file.sha256 for file in made.files}
    assert "Q4_1" in loaded["engine_reason"] and made.id in loaded["engine_reason"]
    answer = real.chat(STARTER, max_tokens=4)
    assert text_of(answer) and answer["model"] == pulled_starter.id
    found = real.store.find(STARTER)
    assert found is not None and found.id == pulled_starter.id, "the alias means what it meant"
