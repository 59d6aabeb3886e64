"""Models that no engine or not every engine can load, in the service: what is said, who takes over, what is left."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_onnx
from api.server import Server, text_of
from harness import workers_of
from localfoundry.sources.resolve import resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from workers import tiny_model

pytestmark = pytest.mark.usefixtures("isolated")

ENGINES = AT_ONCE = ("llama.cpp", "openvino")
STARTER = "smollm2-135m"
TENSOR = "blk.0.ffn_up.weight"
IR = [f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")]


@pytest.fixture(scope="module")
def running(
    reencoded_starter: Path, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service that prefers OpenVINO and has the starter model as a GGUF, and as the folder that OpenVINO reads."""
    made = Server(tmp_path_factory.mktemp("bad"), FOUNDRY_CONTEXT_LENGTH=256, FOUNDRY_ENGINE="openvino")
    made.has(reencoded_starter).start()
    made.http.timeout = 100
    yield made
    made.stop()


def _add(server: Server, source: Path) -> Manifest:
    async def work() -> Manifest:
        return await pull(server.store, await resolve(str(source), settings=server.settings))

    return asyncio.run(work())


def _refused(server: Server, model: str, **options: Any) -> dict[str, Any]:
    """The error of a load that leaves nothing behind."""
    error: dict[str, Any] = server.post("/foundry/load", {"model": model, **options}, 400)["error"]
    assert server.get("/foundry/ps") == []
    assert server.get("/foundry/stats")["memory"]["claimed"] == 0
    assert workers_of(server.state.pid) == []
    assert str(server.home) not in json.dumps(error)
    return error


def _of_openvino(server: Server) -> Manifest:
    return next(one for one in server.store.manifests() if one.format == "openvino" and one.recipe is not None)


@pytest.mark.parametrize("name", IR)
def test_a_file_that_is_missing_in_an_openvino_folder_is_named(running: Server, name: str) -> None:
    """The library says `Empty weights data in bin file` of any of three, and `Tokenizer vocab is empty`."""
    broken = name.replace("_", "-").replace(".", "-")
    (running.again(_of_openvino(running), broken, recipe=None) / name).unlink()
    error = _refused(running, broken)
    assert error["code"] == "load_failed"
    assert f"{name} is missing in its folder" in error["message"]
    assert error["hint"] == f"foundry cache verify {broken}:1"


def test_a_file_that_is_missing_in_an_onnx_folder_is_named(running: Server) -> None:
    manifest = _add(running, tiny_onnx.write(running.home / "tiny"))
    for file in manifest.files:
        broken = "no-" + file.name.replace("_", "-").replace(".", "-")
        (running.again(manifest, broken) / file.name).unlink()
        assert f"{file.name} is missing in its folder" in _refused(running, broken)["message"]


@pytest.mark.real_model
def test_where_the_folder_of_one_engine_is_damaged_the_next_engine_runs_the_file(running: Server) -> None:
    ir = _of_openvino(running)
    gone = running.store.folder(ir) / IR[1]
    kept = gone.rename(running.home / "kept")
    try:
        loaded = running.post("/foundry/load", {"model": STARTER})
        assert loaded["engine_name"] == "llama.cpp"
        [left_out] = [one for one in loaded["engines_left_out"] if one["engine"] == "openvino"]
        assert f"{IR[1]} is missing in its folder" in left_out["why"]
        assert text_of(running.chat(STARTER, max_tokens=2))
        assert [process.pid for process in workers_of(running.state.pid)] == [loaded["pid"]]
    finally:
        kept.rename(gone)
        running.get("/openai/unloadall")


def test_a_tensor_type_and_an_architecture_that_nobody_knows(running: Server) -> None:
    """Each engine in its words; OpenVINO's own would be `unordered_map::at`."""
    good = tiny_model.write(running.home / "good.gguf").read_bytes()
    strange = running.home / "strange-type.gguf"
    name = TENSOR.encode()
    place = good.index(name) + len(name)
    (dimensions,) = struct.unpack_from("<I", good, place)
    place += 4 + 8 * dimensions
    strange.write_bytes(good[:place] + struct.pack("<I", 200) + good[place + 4 :])
    error = _refused(running, _add(running, strange).alias)
    assert error["code"] == "load_failed"
    assert "no engine could load it" in error["message"]
    assert f"tensor {TENSOR} has type" in error["message"] and "invalid ggml type 200" in error["message"]
    other = running.home / "strange-kind.gguf"
    length = struct.pack("<Q", len("llama"))
    other.write_bytes(good.replace(length + b"llama", length + b"quuxo", 1))
    alias = _add(running, other).alias
    assert "unknown model architecture: 'quuxo'" in _refused(running, alias)["message"]
    error = _refused(running, alias, engine="openvino")
    assert error["code"] == "model_not_runnable"
    assert "architecture quuxo is not known to openvino" in error["message"]


def test_a_context_or_a_device_that_cannot_be_had_is_refused_before_anything_starts(
    running: Server, engine: str
) -> None:
    error = _refused(running, STARTER, engine=engine, context=100_000)
    assert error["code"] == "invalid_request" and "was trained for: 8192" in error["message"]
    assert error["hint"] == f"foundry model run {STARTER} --ctx 8192"
    error = _refused(running, STARTER, engine=engine, device="cuda")
    assert "no engine here runs on cuda" in error["message"] and error["hint"] == "--device CPU"


def test_a_device_that_the_machine_does_not_have_is_said_with_those_that_it_has(running: Server) -> None:
    error = _refused(running, STARTER, engine="openvino", device="NPU")
    assert error["code"] == "load_failed"
    assert "finds no device NPU here; it finds CPU" in error["message"]
