"""Models in Ollama's store: a JSON manifest for each tag, whose layers name blobs by digest.

    manifests/HOST/NAMESPACE/NAME/TAG        {"layers": [{"mediaType", "digest", "size"}]}
    blobs/sha256-<hex>

Every digest is parsed before it becomes a file name and every blob must be a regular file of the store: in Ollama
itself a digest with `../` once wrote anywhere (CVE-2024-37032), and such manifests may still lie around. Template and
parameters are translated as far as they can be (`gotemplate.py`); the texts themselves are kept as files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from localfoundry.errors import NotAModel
from localfoundry.sources.choose import quantization_of
from localfoundry.sources.found import Found, FoundModel, Refused, children, collect, inside
from localfoundry.sources.gotemplate import Untranslatable, to_jinja
from localfoundry.sources.names import as_variant_name, sha256_hex
from localfoundry.sources.plan import PlannedFile, PullPlan

MAX_MANIFEST_BYTES = 256 * 1024  # real ones have a few hundred bytes
MAX_TEXT_BYTES = 1024 * 1024
_MAX_MANIFESTS = 5000
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_TYPE = "application/vnd.ollama.image."
_TEXTS = {"template": "ollama-template.txt", "system": "ollama-system.txt", "params": "ollama-params.json",
          "messages": "ollama-messages.json", "license": "LICENSE"}  # fmt: skip
_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "stop": "stop", "top_k": "top_k",
               "min_p": "min_p", "num_predict": "max_tokens", "num_ctx": "context_length",
               "repeat_penalty": "repeat_penalty", "presence_penalty": "presence_penalty",
               "frequency_penalty": "frequency_penalty"}  # fmt: skip
_LICENSES = (("apache license", "apache-2.0"), ("mit license", "mit"), ("llama 3.2 community", "llama3.2"),
             ("llama 3.1 community", "llama3.1"), ("meta llama 3 community", "llama3"),
             ("gemma terms", "gemma"))  # fmt: skip


class _Layer(msgspec.Struct, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, lt=2**50)]


class _Manifest(msgspec.Struct):
    layers: Annotated[list[_Layer], msgspec.Meta(max_length=1024)]


class _Texts(msgspec.Struct):
    """The small layers of a model, by kind."""

    files: list[PlannedFile] = []
    text: dict[str, str] = {}


def location(environ: Mapping[str, str]) -> Path:
    """Ollama's store of this user: OLLAMA_MODELS or ~/.ollama/models."""
    named = environ.get("OLLAMA_MODELS")
    return Path(named or "~/.ollama/models").expanduser()


def scan(root: Path) -> Found:
    """Every model of the store at `root`; empty where there is none. Reads manifests and small texts, no weights."""
    manifests = _manifests(root / "manifests")
    found = collect((path, lambda path=path: [read(path, root)]) for path in manifests[:_MAX_MANIFESTS])  # type: ignore[misc]
    if len(manifests) > _MAX_MANIFESTS:
        more = Refused(
            str(root / "manifests"), f"holds more than {_MAX_MANIFESTS} manifests; the rest is not looked at"
        )
        return Found(found.models, (*found.refused, more))
    return found


def _manifests(folder: Path) -> list[Path]:
    """HOST/NAMESPACE/NAME/TAG, real folders only; a store with more than the limit is not walked to its end."""
    level = [folder]
    for _ in range(4):
        level = [c for p in level if p.is_dir() and not p.is_symlink() for c in children(p)][: _MAX_MANIFESTS + 1]
    return [p for p in level if not p.is_dir()]


def read(path: Path, root: Path) -> FoundModel:
    """The model that a manifest describes. Raises NotAModel: for anything that is not what Ollama writes."""
    name = _name(path)
    layers = _layers(path, root)
    weights = layers.get("model", [])
    if len(weights) != 1 or not _is_gguf(_blob(root, weights[0])):
        raise NotAModel(f"{name} is not one GGUF file; only those of Ollama's models can be adopted")
    if "adapter" in layers:
        raise NotAModel(f"{name} is a base model with an adapter, and without the adapter it is another model")
    label = as_variant_name(name.replace(":", "-").split("/")[-1])
    files = [_file(root, weights[0], f"{label}.gguf")]
    files += [
        _file(root, layer, f"mmproj-{label}{'' if i == 0 else f'-{i}'}.gguf")
        for i, layer in enumerate(layers.get("projector", []))
    ]
    texts = _texts(root, layers)
    template, parameters, untranslated = _translated(texts.text)
    plan = PullPlan(
        name=label,
        version=None,
        alias=label.lower(),
        source=f"ollama:{name}",
        format="gguf",
        files=(*files, *texts.files),
        license=_license(texts.text.get("license", "")),
        quantization=quantization_of(label),
    )
    return FoundModel("ollama", plan, template, parameters, untranslated)


def _name(path: Path) -> str:
    """`llama3.2:1b`, `someone/model:tag` or `host/someone/model:tag`, as Ollama writes it."""
    host, namespace, name, tag = path.parts[-4:]
    for part in (host, namespace, name, tag):
        if not _PART.fullmatch(part.replace(":", "", 1) if part == host else part):
            raise NotAModel(f"{part[:100]!r} cannot be part of a model's name")
    prefix = "" if host == "registry.ollama.ai" else f"{host}/"
    return f"{prefix}{'' if namespace == 'library' and not prefix else namespace + '/'}{name}:{tag}"


def _layers(path: Path, root: Path) -> dict[str, list[_Layer]]:
    real = inside(path, root)
    with real.open("rb") as stream:
        body = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(body) > MAX_MANIFEST_BYTES:
        raise NotAModel(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes, which no manifest is")
    try:
        manifest = msgspec.json.decode(body, type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise NotAModel(f"{path} is not a manifest of Ollama: {exc}") from exc
    layers: dict[str, list[_Layer]] = {}
    for layer in manifest.layers:
        _sum(layer)
        layers.setdefault(layer.media_type.removeprefix(_TYPE), []).append(layer)
    return layers


def _sum(layer: _Layer) -> str:
    kind, _, digest = layer.digest.partition(":")
    if kind != "sha256" or digest != digest.lower():
        raise NotAModel(f"{layer.digest[:100]!r} is not a SHA-256 digest")
    return sha256_hex(digest)


def _blob(root: Path, layer: _Layer) -> Path:
    blobs = root / "blobs"
    path = blobs / f"sha256-{_sum(layer)}"
    try:
        real = inside(path, blobs)
    except FileNotFoundError as exc:
        raise NotAModel(f"the blob {layer.digest} is missing") from exc
    if real.stat().st_size != layer.size:
        raise NotAModel(f"the blob {layer.digest} has {real.stat().st_size} bytes, its manifest says {layer.size}")
    return real


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _file(root: Path, layer: _Layer, name: str) -> PlannedFile:
    return PlannedFile(name, local=_blob(root, layer), size_bytes=layer.size, sha256=_sum(layer))


def _texts(root: Path, layers: Mapping[str, list[_Layer]]) -> _Texts:
    found = _Texts()
    for kind, name in _TEXTS.items():
        for number, layer in enumerate(layers.get(kind, [])):
            if layer.size > MAX_TEXT_BYTES:
                raise NotAModel(f"the {kind} layer has {layer.size} bytes, more than {MAX_TEXT_BYTES}")
            file = _file(root, layer, name if number == 0 else f"{number}-{name}")
            assert file.local is not None
            found.files.append(file)
            with file.local.open("rb") as stream:
                body = stream.read(MAX_TEXT_BYTES + 1)
            text = body.decode("utf-8", "replace")
            found.text[kind] = f"{found.text[kind]}\n{text}" if kind in found.text else text
    return found


def _translated(
    text: Mapping[str, str],
) -> tuple[str | None, dict[str, float | int | bool | str | list[str]], tuple[str, ...]]:
    """Template and parameters in our terms, and what could not be said in them."""
    left: list[str] = []
    template = None
    if "template" in text:
        try:
            template = to_jinja(text["template"])
        except Untranslatable as exc:
            left.append(f"template: {exc}")
    parameters: dict[str, float | int | bool | str | list[str]] = {}
    for key, value in _parameters(text.get("params", "{}"), left).items():
        fitting = isinstance(value, int | float | str) or (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
        )
        if key in _PARAMETERS and fitting:
            parameters[_PARAMETERS[key]] = value
        else:
            left.append(f"parameter {key[:60]!r}")
    left += [f"{kind} (kept as a file)" for kind in ("system", "messages") if kind in text]
    return template, parameters, tuple(left)


def _parameters(text: str, left: list[str]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        left.append("parameters: not a JSON object")
        return {}


def _license(text: str) -> str | None:
    head = " ".join(text[:400].lower().split())
    return next((name for words, name in _LICENSES if words in head), None)
