"""What a variant would mean on a machine: fit, figures, and the fact that is missing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice.candidates import measured
from advice.test_machine import NAMES, recorded
from localfoundry import config, fit
from localfoundry.advice.glance import Glances, shape_of
from localfoundry.advice.machine import Means, measured_as, of_other, of_this
from localfoundry.advice.prospects import in_full, outlined, prospect
from localfoundry.advice.recommend import recommend
from localfoundry.advice.wishes import Wishes
from localfoundry.catalog.lookup import Catalog
from localfoundry.catalog.model import Model, Variant
from localfoundry.cli import recommended
from localfoundry.engines.onnx import Onnx
from localfoundry.fit.calibration import Calibration, Note
from localfoundry.formats.shape import LayerKind

MODELS = Catalog.load().models
ROOMY = Means("test", 64 * 10**9, 60 * 10**9, 10**12, fit.Processor(20e9, 4), "avx2", measured_as())


def sized(alias: str, size_bytes: int | None = 5 * 10**9, quantization: str | None = "Q4_K_M") -> tuple[Model, Variant]:
    """A model of the catalog with a GGUF of this size."""
    model = Catalog.load().require(alias)[0]
    variant = next(v for v in model.variants if v.format == "gguf")
    return model, msgspec.structs.replace(variant, size_bytes=size_bytes, quantization=quantization)


def with_memory(memory_bytes: int | None, free_bytes: int | None) -> Means:
    return replace(ROOMY, memory_bytes=memory_bytes, free_bytes=free_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_on_every_recorded_machine_each_model_has_figures_or_a_reason(name: str, tmp_path: Path) -> None:
    for probed in (True, False):
        told = recorded(name, tmp_path, probed=probed)
        for means in (of_this(told, config.load()), of_other(told, config.load(), name)):
            glances = Glances(means)
            for model in MODELS:
                for variant in model.variants:
                    found = glances.of(model, variant)
                    if found.fit == "unknown" or found.memory is None:
                        assert found.why
                    if means.processor is None:
                        assert found.decode is None
                        assert found.why or found.fit == "never"


def test_a_small_model_fits_a_large_machine_with_all_figures() -> None:
    found = prospect(*sized("qwen2.5-7b"), ROOMY)
    assert found.fit == "fits" and not found.why_unknown
    assert found.context == 8192 and found.largest_context == found.trained_context == 32768
    for figure in (found.memory, found.decode, found.prefill, found.first_token_s, found.load_s):
        assert figure is not None and 0 < figure.low < figure.value < figure.high
        assert figure.source == "predicted"
    assert found.memory is not None and found.memory.value > 5 * 10**9


def test_what_would_fit_with_memory_given_back_is_told_from_what_never_will() -> None:
    model, variant = sized("qwen2.5-7b")
    assert prospect(model, variant, with_memory(64 * 10**9, 10**9)).fit == "not now"
    assert prospect(model, variant, with_memory(4 * 10**9, 4 * 10**9)).fit == "never"


def test_the_context_gives_way_before_the_model_does() -> None:
    model, variant = sized("qwen2.5-7b")
    whole = prospect(model, variant, ROOMY)
    assert whole.memory is not None
    short = int(whole.memory.value) - 100_000_000
    found = prospect(model, variant, with_memory(short, short))
    assert found.fit == "fits" and 512 <= found.context < 8192
    assert prospect(model, variant, with_memory(short, short), context=8192).fit == "never"


def test_a_context_beyond_the_training_never_fits() -> None:
    model, variant = sized("qwen2.5-7b")
    assert prospect(model, variant, ROOMY, context=32768).fit == "fits"
    assert prospect(model, variant, ROOMY, context=32769).fit == "never"


def test_what_is_missing_is_named_and_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ONNX engine its files are none that run here."""
    model, variant = sized("qwen2.5-7b")
    assert prospect(model, msgspec.structs.replace(variant, format="onnx"), ROOMY).fit == "fits"
    monkeypatch.setattr(Onnx, "missing", lambda self: "not installed")
    onnx = msgspec.structs.replace(variant, format="onnx")
    shapeless = msgspec.structs.replace(model, architecture=None)
    cases = [
        (prospect(model, onnx, ROOMY), "no engine here runs onnx files"),
        (prospect(shapeless, variant, ROOMY), "layers and widths"),
        (prospect(model, variant, with_memory(None, None)), "how much memory the machine has"),
        (prospect(model, variant, with_memory(10**10, None)), "how much memory is free"),
    ]
    for found, words in cases:
        assert found.fit == "unknown" and words in found.why_unknown
    assert all(found.decode is None and found.memory is None for found, _ in cases[:2])
    unprobed = prospect(model, variant, replace(ROOMY, processor=None))
    assert unprobed.fit == "fits" and unprobed.decode is None and "bandwidth" in unprobed.why_unknown


def test_a_file_larger_than_the_memory_needs_no_shape_to_be_refused() -> None:
    model, variant = sized("qwen2.5-7b", 10**12)
    shapeless = msgspec.structs.replace(model, architecture=None)
    assert prospect(shapeless, variant, ROOMY).fit == "never"


def test_where_the_size_is_assumed_only_a_whole_interval_decides() -> None:
    model, variant = sized("qwen2.5-7b", None)
    found = prospect(model, variant, ROOMY)
    assert found.fit == "fits" and found.memory is not None
    assert found.memory.high - found.memory.low > 0.3 * found.memory.value
    between = int((found.memory.value + found.memory.high) / 2)
    edge = prospect(model, variant, with_memory(between, between), context=8192)
    assert edge.fit == "unknown" and "size of its file" in edge.why_unknown


@pytest.mark.parametrize(("quantization", "bits"), [("Q4_0", 4.5), ("Q8_0", 8.5), ("F16", 16)])
def test_without_a_size_the_quantization_says_how_many_bits(quantization: str, bits: float) -> None:
    """Q8_0 was once taken for five bits, as every file of unknown size: 40 % too little."""
    model, variant = sized("qwen2.5-7b", None, quantization)
    shape = shape_of(model, variant)
    assert shape is not None and model.parameters is not None
    assert shape.weight_bytes == pytest.approx(model.parameters * bits / 8, rel=0.01)


def test_an_embedding_model_reads_and_has_no_decode_rate() -> None:
    found = prospect(*sized("qwen3-embedding-0.6b", 6 * 10**8, "Q8_0"), ROOMY)
    assert found.decode is None and found.prefill is not None and not found.why_unknown


def test_measured_here_measured_by_others_and_predicted_are_told_apart(tmp_path: Path) -> None:
    model, variant = sized("qwen2.5-7b")
    variant = msgspec.structs.replace(variant, sha256="a" * 64)
    others = Calibration(tmp_path / "others.json")
    others.add(Note("decode", "", "elsewhere", "Q4_K", "a" * 64, 2.0, here=False))
    own = Calibration(tmp_path / "own.json")
    own.add(Note("decode", "", measured_as(), "Q4_K", "a" * 64, 2.0))
    plain = prospect(model, variant, ROOMY).decode
    assert plain is not None
    for calibration, source in ((others, "measured by others"), (own, "measured here")):
        found = prospect(model, variant, ROOMY, calibration=calibration).decode
        assert found is not None and found.source == source
        assert found.value == pytest.approx(2 * plain.value)
    elsewhere = replace(ROOMY, measured_as=None)
    assert prospect(model, variant, elsewhere, calibration=own).decode == plain


def test_the_shape_of_the_version_that_is_here_counts_more_than_the_catalog() -> None:
    model, variant = sized("qwen2.5-7b")
    shape = shape_of(model, variant)
    assert shape is not None
    exact = msgspec.structs.replace(shape, exact=True, layers=(replaced(shape.layers[0], count=1),))
    found, guessed = prospect(model, variant, ROOMY, shape=exact), prospect(model, variant, ROOMY)
    assert found.memory is not None and guessed.memory is not None
    assert found.memory.value < guessed.memory.value


def replaced(value: LayerKind, **changes: int) -> LayerKind:
    return msgspec.structs.replace(value, **changes)


def test_a_glance_is_the_estimators_own_figure_to_the_byte() -> None:
    """Sizes were once rounded by up to 0.025 %, so that fine-tunes shared a glance: a byte more is a byte more."""
    glances = Glances(ROOMY)
    assert ROOMY.processor is not None
    for size in (4_999_900_000, 5 * 10**9, 5 * 10**9 + 1):
        for alias in ("qwen2.5-7b", "llama-3.1-8b"):
            model, variant = sized(alias, size)
            found, shape = glances.of(model, variant), shape_of(model, variant)
            assert shape is not None
            exact = fit.memory(shape, fit.Load(8192))
            assert found.memory == exact.interval and exact["weights"] + exact["rearranged"] >= size - 10
            assert found.decode == fit.decode(shape, fit.Load(8192), ROOMY.processor).interval


@pytest.mark.parametrize("context", [None, 512, 4096])
def test_glances_from_kept_parts_are_those_of_each_file_by_itself(context: int | None, tmp_path: Path) -> None:
    """With little memory, so that contexts give way, and with measurements that correct some of them."""
    calibration = Calibration(tmp_path / "calibration.json")
    calibration.add(Note("decode", "", measured_as(), "Q4_K", "a" * 64, 2.0), Note("memory", "", measured_as(), "Q8_0",
                    "b" * 64, 0.9), Note("prefill", "", "elsewhere", "Q6_K", "c" * 64, 1.5, here=False))  # fmt: skip
    chance = random.Random(3)
    counted: set[str] = set()
    for free in (2 * 10**9, 6 * 10**9, 10**10):
        glances = Glances(with_memory(2 * free, free), context, calibration)
        for model in (each for each in MODELS if each.architecture is not None):
            for quantization in ("Q4_K_M", "Q8_0", "Q4_0", None):
                size = chance.choice((None, chance.randrange(10**8, 2 * 10**10)))
                sha256 = chance.choice(("a" * 64, "b" * 64, "c" * 64, "d" * 64, None))
                variant = msgspec.structs.replace(model.variants[0], format="gguf", size_bytes=size, sha256=sha256,
                                                  quantization=quantization)  # fmt: skip
                alone = in_full(glances, model, variant, shape_of(model, variant))
                assert in_full(glances, model, variant) == alone
                counted.add(f"{alone.fit} {alone.context < 8192}")
    assert {each.split()[0] for each in counted if "unk" not in each} >= {"fits", "never"} and len(counted) >= 3


@pytest.mark.parametrize("wishes", [
    Wishes(room_bytes=10**10, disk_bytes=10**10), Wishes(room_bytes=10**10, context=16384, min_speed=5, max_ttft_s=30),
    Wishes(task="code", room_bytes=10**10, context=65536, license="mit", min_speed=500),
])  # fmt: skip
def test_a_recommendation_from_outlines_says_what_one_from_full_prospects_says(wishes: Wishes) -> None:
    """The whole document: the set, reasons, why not the others, what would change it."""
    chance = random.Random(11)
    means = with_memory(10**10, 5 * 10**9)
    glances = Glances(means, wishes.context)
    facts = {"format": "gguf", "quantization": "Q4_K_M"}
    entries = [
        (model, msgspec.structs.replace(model.variants[0], size_bytes=chance.randrange(10**8, 2 * 10**10), **facts))
        for model in MODELS
    ]
    rated = [measured(model.alias, chance.random(), task=wishes.task) for model, _ in entries[::2]]
    by_id = {variant.id: (model, variant) for model, variant in entries}
    setting = recommended.Setting(means, 0, None, None, None, 3)
    documents = []
    for make in (in_full, outlined):
        found = recommend(
            [make(glances, *entry) for entry in entries],
            wishes,
            rated,
            at=lambda known, tokens, make=make: make(Glances(means, tokens), *by_id[known.variant]),
        )
        documents.append(recommended.document(found, setting))
    assert documents[0] == documents[1]
    assert documents[0]["leftOut"]


_BYTES = st.integers(10**8, 10**11)


@given(
    index=st.integers(0, len(MODELS) - 1), size=st.none() | _BYTES, context=st.none() | st.integers(512, 40_000),
    memory=_BYTES, free_share=st.floats(0, 1), more=st.integers(0, 10**11),
)  # fmt: skip
def test_more_memory_never_turns_a_fit_into_less(
    index: int, size: int | None, context: int | None, memory: int, free_share: float, more: int
) -> None:
    model = MODELS[index]
    variant = msgspec.structs.replace(model.variants[0], size_bytes=size)
    free = int(memory * free_share)
    before = prospect(model, variant, with_memory(memory, free), context=context)
    after = prospect(model, variant, with_memory(memory + more, free + more), context=context)
    if before.fit == "fits":
        assert after.fit == "fits" and after.context >= before.context
    if after.fit == "never":
        assert before.fit == "never"
    if before.fit == "not now":
        assert after.fit in ("fits", "not now", "unknown")
    if before.largest_context is not None:
        assert after.largest_context is not None and after.largest_context >= before.largest_context


def test_an_onnx_folder_has_figures_of_its_own_engine(tmp_path: Path) -> None:
    """It had llama.cpp's rates, which say nothing of another engine's kernels; nor does what was learned of them."""
    model, gguf = sized("qwen2.5-0.5b", 500 * 10**6, "Q8_0")
    folder = msgspec.structs.replace(gguf, format="onnx", quantization=None)
    notes = Calibration(tmp_path / "calibration.json")
    notes.add(*(Note("decode", "llama.cpp", measured_as(), kind, "", 3.0) for kind in ("Q8_0", "Q4_K", "onnx")))
    glances = Glances(ROOMY, calibration=notes)
    one, other = in_full(glances, model, folder), in_full(glances, model, gguf)
    assert one.decode is not None and other.decode is not None and one.prefill is not None
    assert one.decode == prospect(model, folder, ROOMY).decode, "no note of llama.cpp corrects it"
    assert one.decode.high / one.decode.low > other.decode.high / other.decode.low
    assert one.decode.value != other.decode.value and one.decode.source == "predicted"
    assert one.memory is not None and one.memory.value > 500 * 10**6 and one.fit == "fits"
    assert one.load_s is not None and one.load_s != other.load_s
    assert glances.engine(folder) == "onnx" and glances.engine(gguf) == "llama.cpp"
