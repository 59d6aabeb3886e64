"""The whole way from a GGUF to a compiled model that is used, with the real compilers, offline: `make test-compile`.

Not part of `make test`: torch is large, and this takes minutes. FOUNDRY_COMPILE_PYTHON names the Python that has the
packages of `localfoundry[compile]`; without it this fails, it is never skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Foundry
from localfoundry import config, instance
from localfoundry.build import child, toolchain
from localfoundry.client import authorization
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

PYTHON = os.environ.get("FOUNDRY_COMPILE_PYTHON")
SLOW_S = 1500
QUESTION = "What is the capital of France?"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "rain": {"type": "boolean"}},
    "required": ["city", "rain"],
    "additionalProperties": False,
}
# The starter's own template has no place for tools; a folder is where its owner changes that.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {% for t in tools %}{{ t | tojson }}{% endfor %} Answer with <tool_call>"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": CITY}}


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    assert PYTHON, "FOUNDRY_COMPILE_PYTHON names the Python with localfoundry[compile]; make test-compile sets it"
    monkeypatch.setenv("FOUNDRY_COMPILE_PYTHON", PYTHON)
    monkeypatch.setenv("FOUNDRY_OFFLINE", "1")


class Chat:
    """The running service, asked as its owner."""

    def __init__(self, model: str) -> None:
        state = instance.running(config.load())
        assert state is not None
        self.model = model
        self._state = state

    def ask(self, text: str, **options: Any) -> dict[str, Any]:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0, **options}
        answer = httpx2.post(
            f"{self._state.url}/v1/chat/completions", json={"max_tokens": 60, **body}, timeout=300, trust_env=False,
            headers=authorization(self._state),
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        message: dict[str, Any] = answer.json()["choices"][0]["message"]
        return message


@pytest.mark.usefixtures("compilers")
def test_a_gguf_is_compiled_run_measured_and_recommended(foundry: Foundry, starter: Manifest) -> None:
    """GGUF, Hugging Face folder, ONNX int4; chat, JSON schema; bench against the GGUF; recommend."""
    made = foundry.ok("model", "compile", starter.name, "--name", "smol-int4", "--json", timeout=SLOW_S).json
    assert made["made"] and made["id"] == "smol-int4:1"
    recipe = made["recipe"]
    assert recipe["source_id"] == starter.id and recipe["source_sha256"] == starter.files[0].sha256
    assert recipe["checked"]["engine"] == "onnx" and float(recipe["checked"]["perplexity"].split()[0]) < 1.15
    assert "ChatML" in recipe["checked"]["template"]
    again = foundry.ok("model", "compile", starter.name, "--name", "smol-int4", "--json", timeout=SLOW_S).json
    assert not again["made"], "the same again is not built again"
    same = foundry.ok("model", "compile", starter.name, "--verify", "--json", timeout=SLOW_S).json
    assert same["id"] == "smol-int4:1" and all(file["same"] for file in same["files"]), same

    assert foundry.ok("model", "run", "smol-int4", "--prompt", QUESTION, timeout=300).out.strip(), "it is sampled"
    (loaded,) = foundry.ok("service", "ps", "--json").json["models"]
    assert loaded["engine"].startswith("onnx")
    chat = Chat("smol-int4")
    assert "Paris" in chat.ask(QUESTION)["content"]
    schema = {"type": "json_schema", "json_schema": {"name": "weather", "schema": CITY, "strict": True}}
    assert set(json.loads(chat.ask("Will it rain in Oslo?", response_format=schema)["content"])) == {"city", "rain"}

    bench = foundry.ok("bench", "run", starter.id, "smol-int4", "--rounds", "2", "--json", timeout=600).json
    assert {row["label"] for row in bench["candidates"]} == {starter.id, "smol-int4"}
    told = foundry.ok("recommend", "--top", "100", "--json", timeout=300).json
    assert "smol-int4" in json.dumps(told)


@pytest.mark.usefixtures("compilers")
def test_a_folder_is_compiled_and_calls_tools(foundry: Foundry, starter: Manifest, tmp_path: Path) -> None:
    """What fine-tuning leaves: a Hugging Face folder, made of the starter here, with a template of its own."""
    folder, tools = tmp_path / "tuned", toolchain.find(config.load())
    file = Store(config.load().models_dir).main_file(starter)
    child.run(
        tools.script("compile_checkpoint", str(file), str(folder)), tmp_path / "log", "transformers", lambda _: None,
        private=tmp_path,
    )  # fmt: skip
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    made = foundry.ok("model", "compile", str(folder), "--no-check", "--json", timeout=SLOW_S).json
    assert made["id"] == "tuned-onnx-int4:1" and "model.safetensors" not in made["recipe"]["inputs"]
    foundry.ok("model", "load", "tuned-onnx-int4", timeout=300)
    (call,) = Chat("tuned-onnx-int4").ask("Will it rain in Oslo?", tools=[TOOL], tool_choice="required")["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city", "rain"}
