"""One shape for what the readers find, whatever the format: what `model info` shows and what a manifest keeps.

`of_path` is for files on this disk; a remote model's header comes to the same shape through `of_gguf` and
`of_safetensors`, from bytes that the sources fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from localfoundry.errors import DiskError
from localfoundry.formats import shape
from localfoundry.formats.cursor import Read
from localfoundry.formats.gguf import GgufHeader
from localfoundry.formats.onnx import OnnxFolder
from localfoundry.formats.safetensors import SafetensorsHeader
from localfoundry.formats.shape import ModelShape
from localfoundry.formats.template import TemplateCheck

MAX_TEMPLATE_BYTES = 2 * 2**20
MAX_TEXT_BYTES = 16 * 2**20  # of a file beside the weights
CONFIG_FILES = ("config.json", "tokenizer_config.json", "chat_template.jinja")


class HeaderSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model by its own words. None: it does not say."""

    format: str
    architecture: str | None = None
    parameters: int | None = None
    layers: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    context_length: int | None = None
    vocab_size: int | None = None
    quantization: str | None = None
    tensor_types: dict[str, int] = {}  # number of tensors of each type
    weight_bytes: int | None = None
    tokenizer: str | None = None
    license: str | None = None
    chat_template: str | None = None
    template: TemplateCheck | None = None
    shape: ModelShape | None = None


def of_path(path: Path) -> HeaderSummary:
    """The summary of a model file or folder on this disk, its template checked. Blocking.

    Raises NotAModel (pickles are refused, with the safe format named) and DiskError.
    """
    from localfoundry.formats.detect import identify

    kind = identify(path)
    if kind == "gguf":
        return of_gguf_file(min(path.glob("*.[gG][gG][uU][fF]")) if path.is_dir() else path)
    if kind == "onnx":
        from localfoundry.formats.onnx import read_onnx_folder

        return of_onnx(read_onnx_folder(path), _texts_beside(path))
    if kind == "safetensors":
        from localfoundry.formats.safetensors import read_safetensors

        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        beside = _texts_beside(path if path.is_dir() else path.parent)
        return of_safetensors([read_safetensors(file) for file in files], beside)
    if kind == "openvino":
        from localfoundry.formats.openvino import read_openvino_folder

        found = read_openvino_folder(path)
        return HeaderSummary(kind, architecture=found.architecture, context_length=found.context_length)
    return HeaderSummary(format=kind)


def of_gguf_file(path: Path) -> HeaderSummary:
    """The summary of one GGUF. Raises NotAModel, DiskError."""
    from localfoundry.formats.split import read_model

    header = read_model(path)
    try:
        with path.open("rb") as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            return of_gguf(header, read)
    except OSError as exc:
        raise DiskError(f"cannot read {path}: {exc.strerror}") from exc


def of_gguf(header: GgufHeader, read: Read) -> HeaderSummary:
    """The summary of a header; `read` is asked for the vocabulary, which the template is compared with."""
    return HeaderSummary(
        format="gguf",
        architecture=header.architecture,
        parameters=header.parameters,
        layers=header.layers,
        attention_heads=header.attention_heads,
        kv_heads=header.kv_heads,
        context_length=header.context_length,
        vocab_size=header.vocab_size,
        quantization=header.quantization,
        tensor_types=header.tensor_types,
        weight_bytes=header.weight_bytes,
        tokenizer=header.tokenizer,
        license=header.license,
        chat_template=header.chat_template,
        template=check_gguf(header, read),
        shape=shape.of_gguf(header),
    )


def check_gguf(header: GgufHeader, read: Read) -> TemplateCheck | None:
    """The template against the file's own vocabulary; None for a model that does not chat."""
    from localfoundry.formats.template import check
    from localfoundry.formats.tokens import Vocabulary, special_tokens

    if header.pooling or header.kind != "model":
        return None
    if header.chat_template is None or header.tokens is None:
        return check(header.chat_template)
    vocabulary = Vocabulary(read, header.tokens)
    return check(header.chat_template, tokens=special_tokens(header, vocabulary), vocabulary=vocabulary)


def of_safetensors(headers: Sequence[SafetensorsHeader], beside: Mapping[str, bytes]) -> HeaderSummary:
    """The summary of one model in one or more files; `beside` holds those of `CONFIG_FILES` that there are."""
    from localfoundry.formats.safetensors import ModelConfig, read_config

    config = read_config(beside["config.json"]) if "config.json" in beside else ModelConfig()
    types: dict[str, int] = {}
    values: dict[str, int] = {}
    for header in headers:
        for name, number in header.tensor_types.items():
            types[name] = types.get(name, 0) + number
        for name, number in header.values.items():
            values[name] = values.get(name, 0) + number
    tokenizer, template, checked = _tokenizer(beside)
    # Packed four-bit values count as fewer, larger ones: then the count would be wrong, and is left out.
    return HeaderSummary(
        format="safetensors",
        architecture=config.architecture,
        parameters=sum(values.values()) if values and config.quantization is None else None,
        layers=config.layers,
        attention_heads=config.attention_heads,
        kv_heads=config.kv_heads,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        quantization=config.quantization or (max(values, key=lambda t: values[t]) if values else None),
        tensor_types=types,
        weight_bytes=sum(header.data_bytes for header in headers),
        tokenizer=tokenizer,
        chat_template=template,
        template=checked,
    )


def of_onnx(folder: OnnxFolder, beside: Mapping[str, bytes]) -> HeaderSummary:
    """The summary of an ONNX Runtime GenAI folder. Types and counts of its weights are in graphs that are not read."""
    tokenizer, template, checked = _tokenizer(beside)
    return HeaderSummary(
        format="onnx",
        architecture=folder.architecture,
        layers=folder.layers,
        attention_heads=folder.attention_heads,
        kv_heads=folder.kv_heads,
        context_length=folder.context_length,
        vocab_size=folder.vocab_size,
        tokenizer=tokenizer,
        chat_template=template,
        template=checked,
    )


def _tokenizer(beside: Mapping[str, bytes]) -> tuple[str | None, str | None, TemplateCheck]:
    """Kind of tokenizer, template and its check. A template in a file of its own wins, as in the hub's library."""
    from localfoundry.formats.bounded_json import parse_object, text
    from localfoundry.formats.template import check

    document = {}
    if "tokenizer_config.json" in beside:
        document = parse_object(beside["tokenizer_config.json"], "tokenizer_config.json", MAX_TEXT_BYTES)
    own = beside.get("chat_template.jinja")
    template = own.decode("utf-8", "replace") if own else text(document, "chat_template")
    if template is not None and len(template) > MAX_TEMPLATE_BYTES:
        template = None
    named = {}
    for name in ("bos", "eos"):
        token = document.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            named[name] = content
    return text(document, "tokenizer_class"), template, check(template, tokens=named)


def _texts_beside(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in CONFIG_FILES:
        path = folder / name
        try:
            with path.open("rb") as file:
                found[name] = file.read(MAX_TEXT_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise DiskError(f"cannot read {path}: {exc.strerror}") from exc
    return found
