"""Command lines for OpenVINO, what it takes and refuses, and what is read out of its worker's log."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from localfoundry import config
from localfoundry.engines import openvino_fit, openvino_mode
from localfoundry.engines.base import Endpoint, LoadRequest, ModelFacts
from localfoundry.engines.openvino import OpenVino
from localfoundry.errors import InvalidSetting
from localfoundry.formats.shape import LayerKind, ModelShape, WeightGroup
from localfoundry.store.manifest import Manifest, StoredFile

LOADED = """
kv_cache_bytes=28892160
weights_bytes=276889600
engine_load_s=3.2512
"""
REFUSED = """\
Traceback of something
error: Unsupported model architecture 'gemma3'
"""


def request(**fields: object) -> LoadRequest:
    known = {"model_id": "m:1", "model_path": Path("/models/m"), "endpoint": Endpoint(path="/run/w.sock"),
             "context": 512, "parallel": 4}  # fmt: skip
    return LoadRequest(**(known | fields))  # type: ignore[arg-type]


def test_the_command_line() -> None:
    command = OpenVino().command(request(device="GPU", engine_arguments=("--threads", "2")), config.load(environ={}))
    words = " ".join(command.argv)
    assert "-m localfoundry.workers.openvino --model /models/m --alias m:1 --device GPU" in words
    assert "--context 512 --parallel 4 --socket /run/w.sock --engine-argument INFERENCE_NUM_THREADS=2" in words
    assert (command.engine, command.device) == ("openvino", "GPU")
    loopback = OpenVino().command(request(endpoint=Endpoint(port=7, secret="s")), config.load(environ={}))
    assert "--port 7" in " ".join(loopback.argv)
    assert "s" not in loopback.argv, "any program can read a command line"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--n-gpu-layers", "3"), "openvino has no argument '--n-gpu-layers'"),
        (("--threads", "many"), "a whole number from 1 to 1024"),
        (("--threads",), "a whole number from 1 to 1024"),
        (("--precision=int1",), "one of f32, bf16, f16"),
        (("CACHE_DIR=/etc",), "openvino has no argument 'CACHE_DIR'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        OpenVino().command(request(engine_arguments=arguments), config.load(environ={}))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (ModelFacts("gguf", "llama", frozenset({"Q8_0", "F32"})), None),
        (ModelFacts("gguf", "qwen3"), None),
        (ModelFacts("gguf"), None),
        (ModelFacts("openvino", "gemma3"), None),
        (ModelFacts("gguf", "gemma3"), "architecture gemma3 is not known to openvino"),
        (ModelFacts("gguf", "llama", tasks=("embeddings",)), "embeddings"),
    ],
)
def test_what_it_takes(facts: ModelFacts, words: str | None) -> None:
    why = OpenVino().takes(facts)
    assert why is None if words is None else words in str(why)


def test_without_the_library_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenVino().missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert OpenVino().missing() == "not installed: pip install 'localfoundry[openvino]'"


def test_the_workers_words() -> None:
    account = OpenVino().account(LOADED)
    assert (account.memory, account.load_s) == ({"kv_cache": 28892160, "weights": 276889600}, 3.2512)
    assert OpenVino().complaint(REFUSED) == "Unsupported model architecture 'gemma3'"
    assert OpenVino().complaint("error: Cannot open /home/anna/models/x/model.bin\n") == "Cannot open model.bin"
    assert OpenVino().short_of_memory("error: std::bad_alloc")
    assert not OpenVino().short_of_memory(REFUSED)


def _manifest(size_bytes: int, type_: str, tokens: int, layer: LayerKind, head_dim: int = 64) -> Manifest:
    weights = (WeightGroup(type_, True, size_bytes, 0, size_bytes),)
    shape = ModelShape("llama", (layer,), 576, 1536, 9, head_dim, 3, tokens, weights)
    return Manifest("m", 1, "m", "file:m", "gguf", (StoredFile("m.gguf", size_bytes, ""),), "", shape=shape,
                    context_length=8192)  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "context", "resident_mib"),
    [
        (_manifest(77_571_136, "Q4_0", 49152, LayerKind(30, 192, 192)), 2048, 398),
        (_manifest(144_811_072, "Q8_0", 49152, LayerKind(30, 192, 192)), 512, 513),
        (_manifest(144_811_072, "Q8_0", 49152, LayerKind(30, 192, 192)), 8192, 620),
        (_manifest(528_974_880, "Q8_0", 151936, LayerKind(24, 128, 128)), 2048, 1409),
    ],
    ids=["Q4_0", "Q8_0", "Q8_0 of 8192", "a vocabulary of 151,936"],
)
def test_the_estimate_against_measured_loads(manifest: Manifest, context: int, resident_mib: int) -> None:
    """openvino-genai 2026.4.1, resident memory with every block of the cache used."""
    estimate = OpenVino().memory(manifest, Path("/none"), context, 4)["cpu"]
    assert estimate == pytest.approx(resident_mib * 2**20, rel=0.05)


def test_the_cache_is_what_the_library_allocates() -> None:
    shape = _manifest(1, "Q8_0", 49152, LayerKind(30, 192, 192)).shape
    assert shape is not None
    assert openvino_fit.cache_bytes(shape, 512) == 7_879_680
    assert openvino_fit.cache_bytes(shape, 8192) == 112_942_080
    assert openvino_fit.cache_bytes(shape, 2048, ("--cache-type", "f16")) == 48_660_480


def test_the_largest_context_is_the_last_that_fits() -> None:
    engine, manifest = OpenVino(), _manifest(144_811_072, "Q8_0", 49152, LayerKind(30, 192, 192))
    room = engine.memory(manifest, Path("/none"), 2048, 4)["cpu"]
    assert engine.largest_context(manifest, Path("/none"), room, 4) == 2048
    assert engine.largest_context(manifest, Path("/none"), 10 * room, 4) == 8192
    assert engine.largest_context(manifest, Path("/none"), 1000, 4) is None


# One conversation


def _flags(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    (folder / "cpuinfo").write_text(text)
    monkeypatch.setattr(openvino_mode, "_CPUINFO", folder / "cpuinfo")


def test_for_one_conversation_it_computes_otherwise_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flags(monkeypatch, tmp_path, "flags : avx512f avx512_bf16 avx512_vnni")
    many = OpenVino().command(request(), config.load(environ={}))
    assert "--engine-argument" not in many.argv
    assert many.reason.endswith("as is best for many requests at once")
    for fields, why in (({"one_stream": True}, "profile chat"), ({"one_stream": True, "parallel": 1}, "one request")):
        one = OpenVino().command(request(**fields), config.load(environ={}))
        assert "DYNAMIC_QUANTIZATION_GROUP_SIZE=0" in one.argv and "INFERENCE_PRECISION_HINT=bf16" in one.argv
        assert f"as is best for one stream ({why}" in one.reason
        assert "bf16 arithmetic, activations not quantized" in one.reason
    gpu = OpenVino().command(request(one_stream=True, device="GPU"), config.load(environ={}))
    assert "--engine-argument" not in gpu.argv


def test_what_a_person_chose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flags(monkeypatch, tmp_path, "flags : avx512_bf16")
    chosen = request(one_stream=True, engine_arguments=("--precision", "f32"))
    command = OpenVino().command(chosen, config.load(environ={}))
    assert "INFERENCE_PRECISION_HINT=f32" in command.argv and "INFERENCE_PRECISION_HINT=bf16" not in command.argv
    assert command.reason.endswith("(profile chat): activations not quantized")


@pytest.mark.parametrize("flags", ["flags : avx2", "flags : avx512_bf16 amx_bf16", ""])
def test_on_a_processor_that_was_not_measured_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    _flags(monkeypatch, tmp_path, flags)
    command = OpenVino().command(request(one_stream=True), config.load(environ={}))
    assert "--engine-argument" not in command.argv
    assert "no other way was measured here" in command.reason


def test_embeddings_are_for_folders(tmp_path: Path) -> None:
    assert OpenVino().takes(ModelFacts("openvino", "bert", tasks=("embeddings",))) is None
    assert "rerank" in str(OpenVino().takes(ModelFacts("openvino", tasks=("rerank",))))
    command = OpenVino().command(request(tasks=("embeddings",), one_stream=True), config.load(environ={}))
    assert "--embeddings" in command.argv and "--engine-argument" not in command.argv
    with pytest.raises(InvalidSetting, match="--pooling is for models that embed"):
        OpenVino().command(request(engine_arguments=("--pooling", "cls")), config.load(environ={}))
