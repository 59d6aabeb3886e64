"""A variant as one entry of `GET /foundry/list`, in the form that clients written for Foundry Local read.

Every key is there and none is null: those clients check the whole list at once, and one bad entry empties it for
them. A fact that is not known becomes 0 or an empty text here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from localfoundry.catalog.model import Model, Variant

DEFAULT_MAX_OUTPUT_TOKENS = 2048
# Any other value makes at least one client refuse the list.
_PROVIDERS = (
    "CPUExecutionProvider",
    "WebGpuExecutionProvider",
    "CUDAExecutionProvider",
    "QNNExecutionProvider",
)
_PROVIDER_FOR_DEVICE = {"GPU": "WebGpuExecutionProvider", "NPU": "QNNExecutionProvider"}
_SOURCES = {"hf": "HuggingFace", "hf-quantized": "HuggingFace", "pypi": "PyPI", "file": "Local"}
# Read by clients, used by none: the chat template of the file itself is what prompts are made with.
_PROMPT_TEMPLATE = {"assistant": "{Content}", "prompt": "{Content}"}


def foundry_entry(
    model: Model,
    variant: Variant,
    *,
    size_bytes: int | None = None,
    max_output_tokens: int | None = None,
    prompt_template: Mapping[str, str] | None = None,
    tool_calling: bool | None = None,
) -> dict[str, object]:
    """One catalog entry. The keyword arguments are what is known better than the catalog does, once a file is here.

    fileSizeMb is in units of 1,000,000 bytes, at least 1, and 0 where the size is not known. Tool calling is a
    property of the weights, so a variant has it where any variant of its model is known to.
    """
    terms = variant.license or model.license or ""
    size = variant.size_bytes if size_bytes is None else size_bytes
    if tool_calling is None:
        tool_calling = any("tool-calling" in v.capabilities for v in model.variants)
    return {
        "name": variant.id,
        "displayName": variant.name,
        "modelType": variant.format.upper(),
        "providerType": provider_type(variant.source),
        "uri": variant.source or "",
        "version": str(variant.version),
        "promptTemplate": {**_PROMPT_TEMPLATE, **(prompt_template or {})},
        "publisher": model.publisher or "",
        "task": foundry_task(model),
        "testModel": False,
        "runtime": {"deviceType": variant.device, "executionProvider": _execution_provider(variant)},
        "fileSizeMb": max(1, round(size / 1_000_000)) if size else 0,
        "modelSettings": {"parameters": []},
        "alias": model.alias,
        "supportsToolCalling": tool_calling,
        "license": terms,
        "licenseDescription": f"License of this model: {terms}" if terms else "The license is not known.",
        "parentModelUri": f"hf:{model.source_repo}" if model.source_repo else "",
        "maxOutputTokens": max_output_tokens or variant.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS,
        "minFLVersion": "0.0.0",
    }


def foundry_task(model: Model) -> str:
    """`embeddings`, `rerank` or `chat-completion`: a model for code or reasoning is reached through chat too."""
    return next((task for task in ("embeddings", "rerank") if task in model.tasks), "chat-completion")


def provider_type(source: str | None) -> str:
    """The kind of place a source reference names: HuggingFace, PyPI or Local; Unknown where there is none."""
    return "Unknown" if source is None else _SOURCES.get(source.partition(":")[0], "Local")


def _execution_provider(variant: Variant) -> str:
    if variant.execution_provider in _PROVIDERS:
        return variant.execution_provider
    return _PROVIDER_FOR_DEVICE.get(variant.device, "CPUExecutionProvider")
