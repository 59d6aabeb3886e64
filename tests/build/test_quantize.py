"""Quantized versions: which tool makes them, what is refused, and that nothing half made stays."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from build import fake_llama
from build.quantized_gguf import write_model
from build.test_reencode import filed, tensors
from harness import Foundry, wait_until
from localfoundry import config
from localfoundry.build import mixture, quantize, reencode, rewrite
from localfoundry.errors import BuildCancelled, BuildFailed, DiskFull, UsageError
from localfoundry.formats.gguf import read_gguf
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store
from store_crashes import assert_clean, assert_sound


@pytest.fixture
def store() -> Store:
    return Store(config.load().models_dir)


@pytest.fixture
def wide(store: Store, tmp_path: Path) -> Manifest:
    return filed(store, write_model(tmp_path / "wide-f16.gguf", ("F16", "F16", "F16"), file_type=1), "wide-f16")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """llama.cpp's programs, played, as the settings name them; the log of what they were asked."""
    server = fake_llama.install(tmp_path / "llama" / "bin")
    monkeypatch.setenv("FOUNDRY_LLAMA_SERVER", str(server))
    monkeypatch.setenv("FAKE_LLAMA_LOG", str(tmp_path / "asked.log"))
    return tmp_path / "asked.log"


def planned(store: Store, source: Manifest, kind: str, **options: Any) -> quantize.QuantPlan:
    return quantize.plan(store, source, kind, config.load(), **options)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_plain_types_need_no_llama_cpp(store: Store, wide: Manifest, kind: str) -> None:
    plan = planned(store, wide, kind.lower())
    assert (plan.tool, plan.why_not, plan.warning, plan.name) == ("localfoundry", None, None, f"wide-{kind.lower()}")
    new = quantize.make(store, plan)
    found = tensors(store.main_file(new))
    assert found["token_embd.weight"][0] == "Q8_0", "without `output` the embeddings are the output"
    assert {found[f"blk.{n}.ffn_up.weight"][0] for n in (0, 1)} == {kind}
    assert found["output_norm.weight"][0] == "F32"
    assert new.size_bytes == plan.size_bytes and new.quantization == kind
    assert new.recipe is not None and new.recipe.kind == "quantized" and not new.recipe.stands_in
    assert new.recipe.rms_error is not None and 0 < new.recipe.rms_error < 0.2
    again = planned(store, wide, kind)
    assert again.present == new and quantize.make(store, again) == new
    assert_sound(store)


def test_bf16_is_every_matrix_in_half_the_bytes(store: Store, tmp_path: Path) -> None:
    source = filed(store, write_model(tmp_path / "q.gguf", ("Q4_1", "F32", "Q8_0")), "lossy-q4_1")
    plan = planned(store, source, "bf16", tensor_types=(("ffn_up", "Q4_0"),))
    assert (plan.tool, plan.why_not, plan.warning) == ("localfoundry", None, None), "it costs next to nothing"
    new = quantize.make(store, plan)
    found = {name: kind for name, (kind, _) in tensors(store.main_file(new)).items()}
    assert {kind for name, kind in found.items() if "norm" not in name} == {"BF16"}
    assert {kind for name, kind in found.items() if "norm" in name} == {"F32"}
    assert new.size_bytes == plan.size_bytes and new.quantization == "BF16"
    assert new.recipe is not None and new.recipe.rms_error is not None and 0 < new.recipe.rms_error < 2**-8


def test_it_is_another_model_to_choose_and_never_stands_in(store: Store, wide: Manifest) -> None:
    new = quantize.make(store, planned(store, wide, "Q8_0"))
    assert (new.alias, new.source) == ("mix", f"quantized:{wide.id}")
    assert store.find("mix") == wide and store.find("wide-q8_0") == new
    assert reencode.find(store, wide, "Q8_0") is None


def test_tensors_can_be_given_other_types(store: Store, wide: Manifest) -> None:
    mixed = quantize.tensor_types_of(["blk\\.1=q8_0", "token_embd=Q5_1"])
    plan = planned(store, wide, "Q4_0", tensor_types=mixed)
    assert plan.tool == "localfoundry" and plan.name == "wide-q4_0-mixed"
    new = quantize.make(store, plan)
    kinds = {name: kind for name, (kind, _) in tensors(store.main_file(new)).items()}
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0" and kinds["blk.1.ffn_up.weight"] == "Q8_0"
    assert kinds["token_embd.weight"] == "Q5_1"
    assert new.recipe is not None and new.recipe.options == {"tensor-type": "blk\\.1=Q8_0 token_embd=Q5_1"}
    assert planned(store, wide, "Q4_0").present is None, "other options are another version"


@pytest.mark.parametrize("word", ["attn_v", "attn_v=Q9", "=Q8_0", "(=Q8_0", "a" * 300 + "=Q8_0", "a*=Q8_0"])
def test_a_type_for_tensors_is_read_strictly(word: str) -> None:
    with pytest.raises(UsageError):
        quantize.tensor_types_of([word])


def test_an_unknown_type_is_said_with_those_there_are(store: Store, wide: Manifest) -> None:
    with pytest.raises(UsageError, match="Q4_K_M"):
        planned(store, wide, "Q4_KM")
    assert quantize.type_of("q4-k") == "Q4_K_M"


def test_what_cannot_be_done_is_said_with_what_changes_it(
    store: Store, wide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = planned(store, wide, "Q4_K_M")
    assert missing.tool == "llama-quantize" and missing.hint == "foundry engine install llama.cpp --native"
    with pytest.raises(UsageError, match="llama-quantize, which is not here"):
        quantize.make(store, missing)
    fake_llama.install(tmp_path)
    assert planned(store, wide, "Q4_K_M").why_not is None
    assert "importance matrix" in str(planned(store, wide, "IQ2_XS").why_not)
    assert "F16 already" in str(planned(store, wide, "F16").why_not)
    assert store.manifests() == [wide]


def test_weights_that_were_quantized_before_are_taken_only_where_that_is_wanted(store: Store, tmp_path: Path) -> None:
    source = filed(store, write_model(tmp_path / "q.gguf", ("Q4_1", "Q4_1")), "lossy-q4_1")
    refused = planned(store, source, "Q4_0")
    assert "Q4_1 already" in str(refused.why_not) and "--allow-requantize" in str(refused.hint)
    assert planned(store, source, "Q8_0").why_not is None, "costs next to nothing"
    allowed = planned(store, source, "Q4_0", allow_requantize=True)
    assert allowed.why_not is None and allowed.warning
    assert quantize.make(store, allowed).quantization == "Q4_0"
    near = reencode.carry_out(store, reencode.plan(store, source, "Q8_0"))
    assert "Q4_1 already" in str(planned(store, near, "Q4_0").why_not), (
        "a re-encoding does not bring back what was lost"
    )


def test_the_version_that_lost_least_is_the_source(store: Store, tmp_path: Path, wide: Manifest) -> None:
    small = filed(store, write_model(tmp_path / "s.gguf", ("Q4_1",), seed=3), "mix-q4_1")
    assert quantize.best_source(store, small) == wide
    reencode.carry_out(store, reencode.plan(store, small, "Q8_0"))
    store.remove(wide)
    assert quantize.best_source(store, small) == small


def test_llama_quantize_makes_the_others(store: Store, wide: Manifest, tools: Path) -> None:
    plan = planned(store, wide, "Q4_K_M", tensor_types=(("attn_v", "Q8_0"),), imatrix=True)
    assert plan.name == "wide-q4_k_m-mixed-imatrix" and plan.why_not is None
    new = quantize.make(store, plan)
    assert new.recipe is not None and new.recipe.tool == "llama-quantize 9.9.9 (build 42, commit abc)"
    assert set(new.recipe.inputs) == {"imatrix", "calibration"} and new.quantization == "Q4_K_M"
    matrix, asked = tools.read_text().splitlines()
    assert matrix.startswith("llama-imatrix --model ") and "--file calibration.txt" in matrix
    assert "--allow-requantize --imatrix " in asked and "--tensor-type attn_v=q8_0" in asked
    assert f"--imatrix {store.root}" not in asked, "the name of the matrix goes into the model"
    assert planned(store, wide, "Q4_K_M", tensor_types=(("attn_v", "Q8_0"),), imatrix=True).present == new
    assert planned(store, wide, "Q4_K_M", imatrix=True).present is None
    quantize.make(store, planned(store, wide, "Q5_K_M", imatrix=True))
    assert tools.read_text().count("llama-imatrix") == 1, "a matrix is made once"


def test_a_quantizer_that_fails_leaves_nothing(
    store: Store, wide: Manifest, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LLAMA", "llama-quantize fails")
    with pytest.raises(BuildFailed, match="bad weather") as failed:
        quantize.make(store, planned(store, wide, "Q6_K"))
    assert "/srv" not in failed.value.message
    monkeypatch.setenv("FAKE_LLAMA", "llama-imatrix fails")
    with pytest.raises(BuildFailed, match="llama-imatrix"):
        quantize.make(store, planned(store, wide, "Q6_K", imatrix=True))
    assert store.manifests() == [wide]
    assert_clean(store)


def test_it_can_be_cancelled_at_any_time(
    store: Store, wide: Manifest, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LLAMA", "llama-quantize hangs")
    stop = threading.Event()
    ended: list[type[BaseException]] = []

    def work() -> None:
        try:
            quantize.make(store, planned(store, wide, "Q6_K"), cancelled=stop.is_set)
        except BuildFailed as exc:
            ended.append(type(exc))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(tools.exists, 30, "the quantizer began")
    stop.set()
    thread.join(30)
    assert ended == [BuildCancelled] and store.manifests() == [wide]
    with pytest.raises(BuildCancelled):
        quantize.make(store, planned(store, wide, "Q4_0"), cancelled=lambda: True)
    assert_clean(store)


def test_room_is_left_over(store: Store, wide: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(store, wide, "Q8_0")
    monkeypatch.setattr("localfoundry.store.disk.free_bytes", lambda _: plan.needs_bytes - 1)
    assert not planned(store, wide, "Q8_0").fits
    with pytest.raises(DiskFull, match="left over"):
        quantize.make(store, plan)
    assert_clean(store)


def test_sizes_of_plain_types_are_exact_and_others_near(tmp_path: Path) -> None:
    """Those of the mixtures are compared with llama-quantize's own in `make test-native`."""
    header = read_gguf(write_model(tmp_path / "m.gguf", ("F16", "F16", "F32")))
    sizes = [
        mixture.estimated_bytes(header, kind) for kind in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)


def test_a_plan_knows_the_types_that_can_be_read(store: Store, tmp_path: Path) -> None:
    """`quantize` lists them again, so that a plan needs no numpy."""
    for kind in quantize._READ:
        values, size = rewrite.BLOCKS[kind]
        assert rewrite._apart(kind, rewrite.np.zeros(size * 256 // values, rewrite.np.uint8)) is not None


def test_the_command(foundry: Foundry, store: Store, wide: Manifest, tmp_path: Path) -> None:
    shown = foundry.ok("model", "quantize", "mix", "--to", "q4_0", "--dry-run", "--json").json
    assert (shown["tool"], shown["fits"], shown["whyNot"]) == ("localfoundry", True, None)
    assert store.manifests() == [wide]
    made = foundry.ok("model", "quantize", "mix", "--to", "q4_0")
    assert "wide-q4_0:1 was made" in made.out and "foundry eval --fidelity wide-q4_0" in made.err
    assert "made here: wide-f16:1 with F16 as Q8_0 and Q4_0, by localfoundry" in foundry.ok("model", "info", "mix").out
    again = foundry("model", "quantize", "wide-q4_0", "--to", "q4_1")
    assert again.code != 0 and "--allow-requantize" in again.err
    assert foundry.ok("model", "quantize", "wide-q4_0", "--to", "q4_1", "--yes", "--json").json["id"] == "wide-q4_1:1"


def test_it_reads_as_a_gguf(store: Store, wide: Manifest) -> None:
    """The reference reader finds the same metadata, and the number of the new type."""
    new = quantize.make(store, planned(store, wide, "Q5_0"))
    fields = GGUFReader(store.main_file(new)).fields
    assert fields["general.file_type"].contents() == 8 and fields["llama.context_length"].contents() == 2048
