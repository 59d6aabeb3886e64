"""Models loaded and unloaded hundreds of times: the service holds in the end what it held after the first few.

The loads of the fake engine that `make test` has are few; `make test-engines` has 500, on the real model
with llama.cpp and ONNX too, and 100 with OpenVINO, which takes seconds to load. Loads that fail come in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from api.server import Server
from harness import wait_until
from localfoundry.store.manifest import Manifest

ENGINES = ("fake", "llama.cpp", "openvino", "onnx")
AT_ONCE = ("fake",)
MODEL, BROKEN = "smollm2-135m", "broken"
BROKEN_EVERY = 10
# What the heap grows without a leak: it is cut into pieces. A leak of one request's objects is 20 KB and more.
SPARE_BYTES = 4_000_000
SPARE_BYTES_PER_LOAD = 4_000


@dataclass(frozen=True)
class Held:
    """What a service holds while no model is loaded."""

    rss_bytes: int
    descriptors: int
    threads: int
    children: int
    claimed_bytes: int
    sockets: int
    files: frozenset[str]  # of its home and its folder for temporary ones, beside models and logs

    @classmethod
    def by(cls, server: Server) -> Held:
        process = psutil.Process(server.state.pid)
        files = [path for path in server.home.rglob("*") if not {"logs", "blobs"}.intersection(path.parts)]
        return cls(
            process.memory_info().rss, process.num_fds(), process.num_threads(),
            len(process.children(recursive=True)), server.get("/foundry/stats")["memory"]["claimed"],
            len(list(Path(server.state.socket_dir).iterdir())),
            frozenset(str(path.relative_to(server.home)) for path in files),
        )  # fmt: skip

    def said(self) -> str:
        return (
            f"{self.rss_bytes / 1e6:.1f} MB, {self.descriptors} descriptors, {self.threads} threads, "
            f"{len(self.files)} files, {self.children} workers, {self.claimed_bytes} bytes claimed"
        )


@pytest.fixture(scope="module")
def service(
    engine: str, request: pytest.FixtureRequest, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """With the starter model, and `broken`: half of its weights, which no engine can load."""
    home = tmp_path_factory.mktemp("loads")
    (home / "tmp").mkdir()
    made = Server(home, FOUNDRY_CONTEXT_LENGTH=512, FOUNDRY_ENGINE=engine, TMPDIR=home / "tmp")
    if engine == "fake":
        made.fake(MODEL)
        made.fake(BROKEN, fail_load="the tensor is crooked")
    else:
        made.has(request.getfixturevalue("starter_store"))
        _break(made, engine)
    made.start()
    made.http.timeout = 110
    yield made
    made.stop()


def _break(server: Server, engine: str) -> None:
    formats = {"llama.cpp": "gguf", "openvino": "openvino", "onnx": "onnx"}
    manifest = next(one for one in server.store.manifests() if one.format == formats[engine])
    folder = server.again(manifest, BROKEN, recipe=None)
    weights = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    half = weights.read_bytes()[: weights.stat().st_size // 2]
    weights.unlink()
    weights.write_bytes(half)


def _load_and_unload(server: Server, engine: str, times: int) -> None:
    for number in range(times):
        loaded = server.post("/foundry/load", {"model": MODEL, "engine": engine})
        assert loaded["engine_name"] == engine
        assert server.chat(MODEL, max_tokens=1)["usage"]["completion_tokens"] == 1
        server.unload(MODEL)
        if number % BROKEN_EVERY == 0:
            error = server.post("/foundry/load", {"model": BROKEN, "engine": engine}, 400)["error"]
            assert error["code"] == "load_failed"


def _nothing_is_lost(service: Server, engine: str, warm_up: int, times: int) -> None:
    """`warm_up`: loads until threads, caches and the heap have their size."""
    _load_and_unload(service, engine, warm_up)
    before = Held.by(service)
    _load_and_unload(service, engine, times)
    wait_until(lambda: not psutil.Process(service.state.pid).children(), 20, "a worker is left over")
    after = Held.by(service)
    print(f"\n{engine}, {times} loads and unloads: {before.said()} before, {after.said()} after")
    assert (after.children, after.claimed_bytes, after.sockets) == (0, 0, 0)
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads
    assert after.files <= before.files
    assert after.rss_bytes - before.rss_bytes <= SPARE_BYTES + times * SPARE_BYTES_PER_LOAD


@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt", reason="descriptors are not counted there")
def test_a_dozen_loads_and_unloads_leave_nothing(service: Server, engine: str) -> None:
    _nothing_is_lost(service, engine, 6, 10)


@pytest.mark.thorough
@pytest.mark.timeout(7200)
def test_hundreds_of_loads_and_unloads_leave_nothing(service: Server, engine: str) -> None:
    _nothing_is_lost(service, engine, 20, 100 if engine == "openvino" else 500)
