"""Filters of `model list`, text search, and which variant an alias stands for."""

from __future__ import annotations

import pytest

from localfoundry.catalog.filters import parse_filter, preferred_variant, search, select
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import UsageError

MODELS = Catalog.load().models


def variant(name: str, device: str = "CPU", provider: str = "CPUExecutionProvider", format: str = "onnx") -> Variant:
    return Variant(name=name, version=1, format=format, device=device, execution_provider=provider)


ZOO = Model(
    alias="zoo",
    tasks=("chat",),
    license="mit",
    variants=(
        variant("cpu-gguf", format="gguf"),
        variant("cpu"),
        variant("cpu-vendor", provider="OpenVINOExecutionProvider"),
        variant("gpu", "GPU", "WebGpuExecutionProvider"),
        variant("gpu-cuda", "GPU", "CUDAExecutionProvider"),
        variant("npu", "NPU", "QNNExecutionProvider"),
    ),
)


def names(models: tuple[Model, ...]) -> list[str]:
    return [v.name for m in models for v in m.variants]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("device=GPU", ["gpu", "gpu-cuda"]),
        ("DEVICE = gpu", ["gpu", "gpu-cuda"]),
        ("device=!GPU", ["cpu-gguf", "cpu", "cpu-vendor", "npu"]),
        ("provider=CUDAExecutionProvider", ["gpu-cuda"]),
        ("provider=cuda", ["gpu-cuda"]),
        ("alias=zo*", names((ZOO,))),
        ("alias=zo", []),
        ("alias=!zo*", []),
        ("task=chat", names((ZOO,))),
        ("task=chat-completion", names((ZOO,))),
        ("task=!chat", []),
    ],
)
def test_filters_keep_the_variants_that_pass(text: str, expected: list[str]) -> None:
    assert names(select((ZOO,), [parse_filter(text)])) == expected


def test_several_filters_all_hold() -> None:
    assert names(select((ZOO,), [parse_filter("device=gpu"), parse_filter("provider=!cuda")])) == ["gpu"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour=red", "unknown filter key 'colour'; the keys are device, provider, task, alias"),
        ("device", "no '='"),
        ("device=", "no value"),
        ("alias=!", "no value"),
        ("alias=p*i", r"'\*' that is not at the end"),
        ("device=G*", r"'\*' that is not at the end of an alias"),
    ],
)
def test_a_filter_that_means_nothing_is_an_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_filter(text)
    assert "device, provider, task, alias" in (caught.value.hint or "")


def test_by_task_device_license_and_size() -> None:
    assert {m.alias for m in select(MODELS, task="rerank")} == {"qwen3-reranker-0.6b"}
    assert select(MODELS, device="NPU") == ()
    mit = select(MODELS, license="MIT")
    assert mit
    assert all((v.license or m.license) == "mit" for m in mit for v in m.variants)
    small = select(MODELS, max_size_bytes=600_000_000)
    assert {v.id for m in small for v in m.variants} == {
        "smollm2-135m-instruct-q4_1:1",
        "qwen3-embedding-0.6b-generic-cpu:1",
    }, "a variant whose size is not known does not pass"


def test_nothing_asked_for_shows_everything_unchanged() -> None:
    assert select(MODELS) == MODELS


def test_search_needs_every_word_and_puts_names_that_begin_with_it_first() -> None:
    assert [m.alias for m in search(MODELS, "coder 7B")] == ["qwen2.5-coder-7b"]
    assert search(MODELS, "mistral")[0].alias.startswith("mistral")
    assert {m.alias for m in search(MODELS, "embeddings")} >= {"nomic-embed-text-v1.5", "qwen3-embedding-0.6b"}
    assert search(MODELS, "deepseek-ai")[0].publisher == "deepseek-ai"
    assert search(MODELS, "no such thing") == ()
    assert select(MODELS, text="coder 7b") == search(MODELS, "coder 7b")


@pytest.mark.parametrize(
    ("formats", "devices", "expected"),
    [
        ({"onnx", "gguf"}, ("CPU", "GPU", "NPU"), "npu"),
        ({"onnx", "gguf"}, ("CPU", "GPU"), "gpu-cuda"),
        ({"onnx", "gguf"}, ("CPU",), "cpu-vendor"),
        ({"gguf"}, ("CPU", "GPU", "NPU"), "cpu-gguf"),
        ({"safetensors"}, ("CPU", "GPU", "NPU"), None),
        ({"gguf"}, ("GPU",), None),
    ],
)
def test_what_an_alias_stands_for_here(formats: set[str], devices: tuple[str, ...], expected: str | None) -> None:
    chosen = preferred_variant(ZOO, formats, devices)
    assert (chosen.name if chosen else None) == expected


def test_of_equal_variants_the_first_in_the_catalog() -> None:
    by_alias = {m.alias: m for m in MODELS}
    chosen = preferred_variant(by_alias["llama-3.2-1b"], {"gguf"})
    assert chosen is not None
    assert chosen.quantization == "Q4_K_M"
