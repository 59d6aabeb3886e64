"""The committed catalog: every figure in it agrees with every other, and every name can stand in a path."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localfoundry.catalog.guide import load_guide
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Catalog.load()
VARIANTS = [(model, variant) for model in CATALOG.models for variant in model.variants]


def test_every_parameter_count_follows_from_the_shape_beside_it() -> None:
    """A wrong layer or head count makes every memory estimate wrong; the published count gives it away."""
    checked = [m for m in CATALOG.models if m.architecture and m.parameters]
    assert len(checked) >= 30
    for model in checked:
        assert model.architecture is not None
        assert model.architecture.parameters() == model.parameters, model.alias


def test_names_are_unique_and_can_stand_in_a_path() -> None:
    aliases = [m.alias for m in CATALOG.models]
    ids = [v.id.lower() for _, v in VARIANTS]
    assert len(set(aliases)) == len(aliases)
    assert len(set(ids)) == len(ids)
    for name in (*aliases, *(v.name for _, v in VARIANTS)):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name), name


def test_no_name_means_two_models() -> None:
    claimed: dict[str, str] = {}
    for model in CATALOG.models:
        for name in (model.alias, *model.names):
            assert claimed.setdefault(name.lower(), model.alias) == model.alias, name


@pytest.mark.parametrize(("model", "variant"), VARIANTS, ids=[v.id for _, v in VARIANTS])
def test_each_variant_is_well_formed(model: Model, variant: Any) -> None:
    assert variant.format in ("gguf", "onnx")
    assert variant.sha256 is None or re.fullmatch("[0-9a-f]{64}", variant.sha256)
    assert variant.source is None or re.match(r"(hf|hf-quantized|pypi):[\w.-]+", variant.source)
    assert (variant.source is None) == (variant.format == "onnx")
    for terms in (model.license, variant.license):
        assert terms is None or terms == terms.lower()


def test_gguf_stands_before_onnx_and_four_bits_before_more() -> None:
    for model in CATALOG.models:
        order = [(v.format != "gguf", v.quantization not in ("Q4_K_M", "Q4_1", None)) for v in model.variants]
        assert order == sorted(order), model.alias


def test_the_starter_model_is_whole() -> None:
    model, _ = CATALOG.require("smollm2-135m")
    (variant,) = model.variants
    assert variant.id == "smollm2-135m-instruct-q4_1:1"
    assert (variant.size_bytes, variant.license, variant.format) == (98_362_432, "apache-2.0", "gguf")
    assert variant.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_every_model_the_guide_names_is_in_the_catalog() -> None:
    guide = load_guide()
    named = [note.model for category in guide.categories for note in category.models]
    named += [choice.model for task in guide.tasks for choice in task.choices]
    named += [hardware.model for hardware in guide.hardware] + [size.model for size in guide.sizes]
    assert len(named) == 24
    for name in named:
        assert CATALOG.find(name), name
    assert "course" in guide.source
    code = guide.for_task("Code")
    assert code is not None
    assert code.choices[0].model == "deepseek-r1-distill-qwen-7b"
    assert guide.for_task("gardening") is None


def _build(facts: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/build_catalog.py"), str(facts), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_builder_refuses_a_shape_that_does_not_give_its_count(tmp_path: Path) -> None:
    shape = {"layers": 30, "hidden_size": 576, "ffn_size": 1536, "attention_heads": 9, "kv_heads": 3, "head_dim": 64,
             "vocab_size": 49152, "tied_embeddings": True, "qkv_bias": False, "qk_norm": False,
             "context_length": 8192}  # fmt: skip
    facts = {"models": [{"alias": "m", "tasks": ["chat"], "parameters": 134515007, "architecture": shape}]}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    result = _build(tmp_path / "facts.json", "--check")
    assert result.returncode == 1
    assert "m: 134515007 parameters are published, its shape gives 134515008" in result.stderr


def test_the_builder_finds_a_catalog_that_is_not_what_the_facts_give(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text('{"models": []}')
    result = _build(tmp_path / "facts.json", "--check")
    assert result.returncode == 1
    assert "is not what" in result.stderr
