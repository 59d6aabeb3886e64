"""What a person named as the source of a compilation: a folder, a model that is here, or a repository on the hub.

A repository is asked for its `config.json` before anything else is fetched, so that what no compiler knows costs no
download. What is fetched becomes a version of the store, of the form safetensors: verified, resumable, counted by
`cache du`, and there for the next compilation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from localfoundry.build import checkpoint, onnx_builder
from localfoundry.build.checkpoint import Checkpoint
from localfoundry.build.compilation import Source
from localfoundry.build.targets import Target
from localfoundry.build.toolchain import Toolchain
from localfoundry.cli import context
from localfoundry.cli.progress import PullProgress
from localfoundry.config import Settings
from localfoundry.errors import ModelNotCached, NotCompilable, UnknownModel
from localfoundry.sources import huggingface
from localfoundry.sources.names import as_variant_name
from localfoundry.sources.plan import PullPlan
from localfoundry.sources.reference import HubReference, LocalReference, looks_local, parse
from localfoundry.store.manifest import Manifest

_BYTES_PER_WEIGHT = 2  # of what is on the hub, before its header was read


@dataclass(frozen=True, slots=True)
class Origin:
    """A source, and what has to be fetched for it first."""

    source: Source
    pull: PullPlan | None = None
    fetch_bytes: int = 0


def find(given: Settings, tools: Toolchain, target: Target, text: str) -> Origin:
    """The source that `text` means. Asks the hub where it is one of its; fetches no weights.

    Raises UnknownModel, ModelNotCached, NotCompilable, NotAModel, SourceError.
    """
    if looks_local(text):
        parsed = parse(text)
        assert isinstance(parsed, LocalReference)
        return Origin(_of_folder(parsed.path))
    manifest = context.cached(given, text)
    if manifest is not None:
        return Origin(of_version(given, manifest))
    if context.catalog(given).find(text) is not None:
        raise ModelNotCached(text)
    if "/" not in text:
        context.catalog(given).require(text)
    parsed = parse(text)
    if not isinstance(parsed, HubReference) or parsed.path or parsed.quantization:
        raise NotCompilable(
            f"{text[:200]} does not name a whole repository",
            hint="name it as ORG/REPO or ORG/REPO@REVISION, or a model that is here: foundry cache list",
        )
    return _of_hub(given, tools, target, parsed)


def _of_folder(path: Path) -> Source:
    if not path.exists():
        raise UnknownModel(f"there is nothing at {path}", param="source")
    if not path.is_dir():
        raise NotCompilable(
            f"{path.name} is a file; a folder of safetensors with its config.json is compiled, or a model that is here",
            hint=f"foundry model download {path} first, then compile it by its name",
        )
    found = checkpoint.read(path)
    name = as_variant_name(path.resolve().name)
    return Source(f"file:{path}", name, name.lower(), folder=found)


def of_version(given: Settings, manifest: Manifest) -> Source:
    """A version of the store: a GGUF, or weights that were fetched for compiling."""
    if manifest.format != "safetensors":
        return Source(manifest.id, manifest.name, manifest.alias, version=manifest, license=manifest.license)
    found = checkpoint.read(context.store(given).folder(manifest))
    return Source(
        _words(manifest.source), manifest.alias, manifest.alias, folder=found, commit=manifest.commit,
        license=manifest.license,
    )  # fmt: skip


def _words(source: str) -> str:
    """`hf:ORG/REPO@COMMIT`, without the file that pins it."""
    return source.rsplit(":", 1)[0] if source.startswith("hf:") and source.count(":") > 1 else source


def _of_hub(given: Settings, tools: Toolchain, target: Target, reference: HubReference) -> Origin:
    plan, config, names = asyncio.run(huggingface.plan_checkpoint(reference, given))
    checkpoint.refuse_without_weights(reference.repo, names)
    if not config:
        raise NotCompilable(f"{reference.repo} has no config.json, which says what the model is")
    checkpoint.require_tokenizer(reference.repo, names)
    document = checkpoint.parse_config(config)
    architecture = checkpoint.architecture_of(document, reference.repo)
    if target.format == "onnx":
        onnx_builder.require(tools, architecture)
    weights = sum(f.size_bytes or 0 for f in plan.files if f.name.endswith(".safetensors"))
    expected = Checkpoint(
        folder=Path(), files=tuple(f.name for f in plan.files), architecture=architecture, model_type="",
        parameters=weights // _BYTES_PER_WEIGHT, weight_bytes=weights, layers=None, context_length=None, tied=False,
        quantized=checkpoint.method_of(document),
    )  # fmt: skip
    source = Source(
        _words(plan.source), plan.alias, plan.alias, folder=expected, commit=plan.commit, license=plan.license
    )
    return Origin(source, plan, sum(f.size_bytes or 0 for f in plan.files))


def fetched(given: Settings, origin: Origin) -> Source:
    """The source, once it is here: verified, and a version of the store. Raises as pulls do."""
    from localfoundry.store.download import Limits
    from localfoundry.store.pull import pull

    assert origin.pull is not None
    limits = Limits(connections=given.download_connections)
    with PullProgress() as progress:
        manifest = asyncio.run(pull(context.store(given), origin.pull, progress, offline=given.offline, limits=limits))
    return of_version(given, manifest)
