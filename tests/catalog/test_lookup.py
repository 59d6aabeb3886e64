"""What a name stands for, a person's own catalog, and the nearest names of a wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.catalog import lookup
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import InvalidSetting, UnknownModel

CATALOG = Catalog.load()


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("qwen2.5-7b", "qwen2.5-7b"),
        ("qwen2.5-7b-instruct", "qwen2.5-7b"),
        ("qwen2.5-14b-instruct", "qwen2.5-14b"),
        ("deepseek-r1", "deepseek-r1-7b"),
        ("deepseek-r1-7b", "deepseek-r1-7b"),
        ("deepseek-r1-distill-qwen-7b", "deepseek-r1-7b"),
        ("llama-3.2", "llama-3.2-3b"),
        ("phi-4-mini", "phi-4-mini"),
        ("phi-4", "phi-4"),
        ("gemma-2-2b", "gemma-2-2b"),
        ("mistral-7b", "mistral-7b-v0.2"),
        ("smollm2-135m-instruct", "smollm2-135m"),
        ("Microsoft/Phi-4-MINI-instruct", "phi-4-mini"),
        ("  PHI-4  ", "phi-4"),
    ],
)
def test_names_from_tutorials_resolve(name: str, alias: str) -> None:
    found = CATALOG.find(name)
    assert found is not None
    assert (found[0].alias, found[1]) == (alias, None)


@pytest.mark.parametrize("name", ["Phi-4-generic-cpu", "phi-4-generic-cpu:2"])
def test_a_variant_is_found_by_name_and_by_id(name: str) -> None:
    model, variant = CATALOG.require(name)
    assert model.alias == "phi-4"
    assert variant is not None
    assert variant.id == "Phi-4-generic-cpu:2"


def test_a_version_that_is_not_known_is_not_found() -> None:
    assert CATALOG.find("phi-4-generic-cpu:99") is None
    assert CATALOG.find("") is None


def test_every_name_in_the_catalog_finds_its_model() -> None:
    for model in CATALOG.models:
        for name in (model.alias, *model.names, *([model.source_repo] if model.source_repo else [])):
            assert CATALOG.require(name) == (model, None)
        for variant in model.variants:
            assert CATALOG.require(variant.id) == (model, variant)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("phi4-mini", "phi-4-mini"), ("phi 4", "phi-4"), ("gpt-oss", "gpt-oss-20b"), ("mistral", "mistral-7b-v0.2")],
)
def test_the_nearest_name(name: str, nearest: str) -> None:
    assert CATALOG.nearest(name)[0] == nearest


def test_a_family_without_its_dots_gives_the_family() -> None:
    assert all(name.startswith("qwen2.5") for name in CATALOG.nearest("qwen25"))


def test_a_mistyped_variant_gives_the_variant() -> None:
    assert CATALOG.nearest("llama-3.2-1b-instruct-q8_0:7")[0] == "llama-3.2-1b-instruct-q8_0"


def test_an_unknown_name_gets_three_names_and_the_command() -> None:
    with pytest.raises(UnknownModel, match="no model is called 'phi5-mini'") as caught:
        CATALOG.require("phi5-mini")
    hint = caught.value.hint or ""
    assert hint.startswith("did you mean: ")
    assert hint.count(",") == 2
    assert hint.endswith("foundry model list")
    assert caught.value.param == "model"


@given(st.text(max_size=300))
def test_nearest_gives_three_names_that_can_be_found(name: str) -> None:
    near = CATALOG.nearest(name)
    assert len(set(near)) == 3
    assert all(CATALOG.find(n) for n in near)


def test_a_name_of_a_megabyte_is_cut_before_it_is_compared() -> None:
    with pytest.raises(UnknownModel) as caught:
        CATALOG.require("x" * 1_000_000)
    assert len(caught.value.message) < 200


def _own(tmp_path: Path, *models: dict[str, Any]) -> Catalog:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"models": models}))
    return Catalog.load(path)


def test_own_models_win_by_alias_and_by_name(tmp_path: Path) -> None:
    variant = {"name": "ours-q8_0", "version": 1, "format": "gguf", "source": "file:/models/ours.gguf"}
    catalog = _own(
        tmp_path,
        {"alias": "phi-4", "tasks": ["chat"], "variants": [variant]},
        {"alias": "ours", "tasks": ["chat"], "variants": [], "names": ["llama-3.2", "qwen3-0.6b"]},
    )
    assert [m.alias for m in catalog.models[:2]] == ["phi-4", "ours"]
    assert [m.alias for m in catalog.models].count("phi-4") == 1
    assert catalog.require("PHI-4")[0].variants[0].source == "file:/models/ours.gguf"
    assert catalog.require("llama-3.2")[0].alias == "ours"
    assert catalog.require("qwen3-0.6b")[0].alias == "ours"
    assert catalog.require("llama-3.2-3b")[0].alias == "llama-3.2-3b"
    assert catalog.find("Phi-4-generic-cpu") is None, "the built-in model of that alias is gone with its variants"


def test_of_several_versions_the_name_means_the_highest(tmp_path: Path) -> None:
    variants = [{"name": "v", "version": n, "format": "gguf"} for n in (1, 10, 2)]
    catalog = _own(tmp_path, {"alias": "m", "tasks": ["chat"], "variants": variants})
    found = catalog.require("v")[1]
    assert found is not None
    assert found.version == 10
    assert catalog.require("v:2")[1] != found


_GOOD = {"alias": "m", "tasks": ["chat"], "variants": [{"name": "v", "version": 1, "format": "gguf"}]}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ('{"models": [{"alias": 1}]}', r"\$\.models\[0\]\.alias"),
        ('{"models": [{"alias": "x"}]}', "missing required field `tasks`"),
        ('{"model": []}', "unknown field `model`"),
        (json.dumps({"models": [{**_GOOD, "alias": "a/b"}]}), r"alias 'a/b' holds more than"),
        (json.dumps({"models": [{**_GOOD, "alias": "../x"}]}), "holds more than"),
        (json.dumps({"models": [_GOOD, {**_GOOD, "alias": "M"}]}), "alias 'M' is there twice"),
        (json.dumps({"models": [_GOOD, {**_GOOD, "alias": "n"}]}), "variant v:1 is there twice"),
        (json.dumps({"models": [{**_GOOD, "variants": [{"name": "v:1", "version": 1, "format": "gguf"}]}]}), "'v:1'"),
        (
            json.dumps({"models": [{**_GOOD, "variants": [{"name": "v", "version": 0, "format": "gguf"}]}]}),
            "less than 1",
        ),
        (
            json.dumps({"models": [{**_GOOD, "variants": [{**_GOOD["variants"][0], "sha256": "abc"}]}]}),  # type: ignore[dict-item]
            "64 lower-case",
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, document: str, problem: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(document)
    with pytest.raises(InvalidSetting, match=problem) as caught:
        Catalog.load(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"cannot read the catalog file .*absent\.json: No such file"):
        Catalog.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b'{"models": [{"alias": "\xff\xfe"}]}')
    with pytest.raises(InvalidSetting, match="cannot be used"):
        Catalog.load(tmp_path / "binary.json")


def test_listing_models_imports_nothing_heavy() -> None:
    """`foundry model list` has 150 ms in all; one of these alone would take them."""
    program = (
        "import sys, localfoundry.catalog.lookup as l, localfoundry.catalog.filters, localfoundry.catalog.foundry\n"
        "import localfoundry.catalog.guide, localfoundry.formats.gguf\n"
        "l.Catalog.load()\n"
        "heavy = {'httpx2', 'huggingface_hub', 'asyncio', 'rich', 'ssl', 'difflib', 'xllamacpp'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


_NAMES = st.sampled_from(["a", "A", "b", "a.b", "a b", "-a", "", "a\nb", "a\n", "ä", "x" * 129])
_VARIANTS = st.builds(Variant, _NAMES, st.integers(0, 2), st.just("gguf"),
                      sha256=st.sampled_from([None, "0" * 64, "0" * 63]))  # fmt: skip


@given(st.lists(st.builds(Model, _NAMES, st.just(("chat",)), st.lists(_VARIANTS, max_size=3).map(tuple)), max_size=4))
def test_the_quick_check_of_a_catalog_says_what_the_slow_one_says(models: list[Model]) -> None:
    assert lookup._sound(models) == (next(lookup._problems(models), None) is None)
