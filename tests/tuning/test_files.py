"""Where a search starts from: the default, and every engine and build with every version that it reads faithfully."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.gguf_file import tiny_llama
from harness import executable, native_on_path
from localfoundry import config
from localfoundry.build.quantize import QuantPlan
from localfoundry.engines import choice, engines
from localfoundry.formats.gguf import read_gguf
from localfoundry.sources.resolve import resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Silent
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.tuning import files


def test_both_kinds_of_llama_cpp_are_ways_of_loading_a_file(
    starter: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_on_path(tmp_path, monkeypatch)
    settings = config.load({"llama_server": "auto"})
    store, llama = Store(settings.models_dir), choice.named("llama.cpp", engines())
    base, _ = files.default(store, starter, settings)
    found = files.others(store, starter, settings, llama)
    assert base in found and base.label == "llama.cpp (llama-server) Q4_1"
    assert [one.label for one in found] == ["llama.cpp (llama-server) Q4_1", "llama.cpp (bundled) Q4_1"]
    assert found[0].changes_answers != found[1].changes_answers, "a build that is broken is not faithful"


async def test_a_bundled_build_that_is_not_in_use_is_tried_with_few_files(isolated: Path, tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("")
    server.chmod(0o755)
    store, llama = Store(config.load().models_dir), choice.named("llama.cpp", engines())
    (tmp_path / "wide.gguf").write_bytes(tiny_llama())
    wide = await pull(store, await resolve(str(tmp_path / "wide.gguf"), settings=config.load()))
    for plan in files.to_make(store, wide, config.load({"llama_server": "bundled"}), llama):
        files.make(store, plan, Silent())
    native = files.others(store, wide, config.load({"llama_server": str(server)}), llama)
    assert [one.build for one in native].count("bundled") == 2 and len(native) == 4 + 2
    bundled = files.others(store, wide, config.load({"llama_server": "bundled"}), llama)
    assert len(bundled) == 4 * len({one.build for one in bundled}), "each file in the one in use"


async def test_a_mixture_of_types_is_made_of_weights_that_are_not_quantized_yet(
    starter: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without llama.cpp's own programs
    settings = config.load()
    store, llama = Store(settings.models_dir), choice.named("llama.cpp", engines())
    (tmp_path / "wide.gguf").write_bytes(tiny_llama())
    wide = await pull(store, await resolve(str(tmp_path / "wide.gguf"), settings=settings))
    plans = {made.name: made for made in files.to_make(store, wide, settings, llama)}
    mixed = plans[f"{wide.name}-q8_0-mixed"]
    assert plans.keys() == {"wide-q8_0", "wide-q4_0", "wide-q8_0-mixed"}
    version = files.make(store, mixed, Silent())
    types = {t.name: t.type for t in read_gguf(store.main_file(version)).tensors}
    assert {types[f"blk.1.{name}.weight"] for name in ("ffn_gate", "ffn_up")} == {"Q4_0"}
    assert types["blk.1.ffn_down.weight"] == types["blk.1.attn_q.weight"] == "Q8_0"
    assert "llama.cpp (bundled) Q8_0 mixed" in [one.label for one in files.others(store, wide, settings, llama)]
    assert mixed.name not in {made.name for made in files.to_make(store, wide, settings, llama)}, "it is here"
    assert [v.name for v in files.versions(store, wide)] == [wide.name, mixed.name], "what may lose comes last"
    assert {made.name for made in files.to_make(store, starter, settings, llama)} == {
        "smollm2-135m-instruct-q4_1-q8_0"
    }, "of Q4_1 it would lose too much"
    for program in ("llama-imatrix", "llama-quantize"):
        executable(tmp_path / program)
    [*_, wide_too] = files.to_make(store, starter, settings, llama, wide=True)
    assert isinstance(wide_too, QuantPlan) and (wide_too.type, wide_too.tool) == ("BF16", "localfoundry")
    named = files.to_make(store, starter, settings, llama, ["Q8_0"], wide=True)
    assert wide_too.name not in {made.name for made in named}
    [_, milder] = files.to_make(store, starter, settings, llama)
    assert isinstance(milder, QuantPlan) and milder.imatrix and milder.tensor_types == (("ffn_(gate|up)", "Q5_0"),)
