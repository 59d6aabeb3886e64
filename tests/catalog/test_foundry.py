"""Entries of `GET /foundry/list`: one missing key or one null empties a client's whole list."""

from __future__ import annotations

from typing import Any

import pytest

from localfoundry.catalog.foundry import foundry_entry, provider_type
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant

KEYS: dict[str, type] = {
    "name": str, "displayName": str, "modelType": str, "providerType": str, "uri": str, "version": str,
    "promptTemplate": dict, "publisher": str, "task": str, "testModel": bool, "runtime": dict, "fileSizeMb": int,
    "modelSettings": dict, "alias": str, "supportsToolCalling": bool, "license": str, "licenseDescription": str,
    "parentModelUri": str, "maxOutputTokens": int, "minFLVersion": str,
}  # fmt: skip
PROVIDERS = {"CPUExecutionProvider", "WebGpuExecutionProvider", "CUDAExecutionProvider", "QNNExecutionProvider"}
UNKNOWN = Model(alias="bare", tasks=(), variants=(Variant(name="bare", version=1, format="gguf"),))
ALL = [(m, v) for m in (*Catalog.load().models, UNKNOWN) for v in m.variants]


@pytest.mark.parametrize(("model", "variant"), ALL, ids=[v.id for _, v in ALL])
def test_every_key_is_there_with_its_type(model: Model, variant: Variant) -> None:
    entry: dict[str, Any] = foundry_entry(model, variant)
    assert {key: type(value) for key, value in entry.items()} == KEYS
    assert entry["name"] == f"{variant.name}:{entry['version']}"
    assert entry["modelSettings"] == {"parameters": []}
    assert {"assistant", "prompt"} <= entry["promptTemplate"].keys()
    assert all(isinstance(text, str) for text in entry["promptTemplate"].values())
    assert entry["runtime"]["deviceType"] in ("CPU", "GPU", "NPU")
    assert entry["runtime"]["executionProvider"] in PROVIDERS


def test_what_is_not_known_is_nought_or_empty() -> None:
    entry = foundry_entry(UNKNOWN, UNKNOWN.variants[0])
    assert (entry["fileSizeMb"], entry["maxOutputTokens"], entry["license"]) == (0, 2048, "")
    assert (entry["providerType"], entry["uri"], entry["supportsToolCalling"]) == ("Unknown", "", False)


def test_what_a_file_on_the_disk_tells_wins() -> None:
    model, variant = ALL[0]
    entry = foundry_entry(
        model, variant, size_bytes=5, max_output_tokens=8192, prompt_template={"prompt": "p"}, tool_calling=True
    )
    assert (entry["fileSizeMb"], entry["maxOutputTokens"], entry["supportsToolCalling"]) == (1, 8192, True)
    assert entry["promptTemplate"] == {"assistant": "{Content}", "prompt": "p"}


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        ("CPU", "OpenVINOExecutionProvider", "CPUExecutionProvider"),
        ("GPU", "TensorRTExecutionProvider", "WebGpuExecutionProvider"),
        ("GPU", "CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("NPU", "VitisAIExecutionProvider", "QNNExecutionProvider"),
    ],
)
def test_a_provider_that_would_break_a_client_is_not_sent(device: str, provider: str, expected: str) -> None:
    variant = Variant(name="v", version=1, format="onnx", device=device, execution_provider=provider)
    entry: dict[str, Any] = foundry_entry(UNKNOWN, variant)
    assert entry["runtime"] == {"deviceType": device, "executionProvider": expected}


def test_the_provider_names_the_source() -> None:
    kinds = ["hf:a/b/c.gguf", "hf-quantized:a/b", "pypi:x==1/y", "file:/m.gguf", None]
    assert [provider_type(kind) for kind in kinds] == ["HuggingFace", "HuggingFace", "PyPI", "Local", "Unknown"]


def test_tasks_in_the_clients_words() -> None:
    words = {m.alias: foundry_entry(m, v)["task"] for m, v in ALL}
    assert words["qwen2.5-coder-7b"] == words["phi-4"] == "chat-completion"
    assert words["nomic-embed-text-v1.5"] == "embeddings"
