"""OpenVINO through the service: embeddings of a folder, the mode for one conversation, devices that are not here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import OpenAI

from api.server import Server
from workers import tiny_encoder, tiny_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("openvino")
    made = Server(home)
    for path in (tiny_encoder.write(home / "encoder", pooling=None), tiny_model.write(home / "tiny.gguf")):
        done = made.command("model", "download", str(path))
        assert done.returncode == 0, done.stdout + done.stderr
    chosen = {"encoder.engine": "openvino", "encoder.engineArguments": "--pooling mean", "tiny.profile": "chat"}
    for key, value in chosen.items():
        assert made.command("config", "set", f"models.{key}", value).returncode == 0
    made.start()
    made.http.timeout = 100
    yield made
    made.stop()


def test_embeddings_of_a_folder(server: Server) -> None:
    """It is known by its graph: no task is stated anywhere."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
        answer = client.embeddings.create(model="encoder", input=["the sea", "the sea", "nine hats"])
        with pytest.raises(openai.BadRequestError, match="dimensions: no engine here shortens embeddings"):
            client.embeddings.create(model="encoder", input="x", dimensions=8)
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="encoder", input="\x01" * (tiny_encoder.PLACES + 5))
    first, same, other = (np.array(item.embedding) for item in answer.data)
    assert first @ same > 0.9999 > 0.99 > first @ other
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10
    [loaded] = server.get("/foundry/ps")
    assert (loaded["engine"], loaded["tasks"]) == ("openvino", ["embeddings"])
    assert refused.value.code == "context_length_exceeded"
    assert str(tiny_encoder.PLACES + 5) in str(refused.value)


def test_the_mode_for_one_conversation_is_told(server: Server) -> None:
    loaded = server.post("/foundry/load", {"model": "tiny", "engine": "openvino"})
    assert "for one" in loaded["engine_reason"] and "profile chat" in loaded["engine_reason"]
    told = server.command("service", "ps", "--verbose").stderr
    assert "profile chat" in " ".join(told.split())


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_a_device_that_is_not_here_is_an_error_and_never_the_processor_instead(server: Server, device: str) -> None:
    server.unload("tiny")
    error = server.post("/foundry/load", {"model": "tiny", "device": device}, 400)["error"]
    assert f"OpenVINO finds no device {device.upper()} here" in error["message"]
    assert "llama.cpp" not in [model["engine"] for model in server.get("/foundry/ps")]
    assert "tiny" not in [model["alias"] for model in server.get("/foundry/ps")]
