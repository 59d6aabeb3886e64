"""What the ONNX engine says of a folder before and after a load."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import tiny_onnx
from localfoundry import config
from localfoundry.engines import onnx_arguments, runnable_formats
from localfoundry.engines.base import Endpoint, LoadRequest, ModelFacts
from localfoundry.engines.onnx import Onnx
from localfoundry.errors import InvalidSetting
from localfoundry.store.manifest import Manifest, StoredFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "tiny")


def of(folder: Path) -> Manifest:
    files = tuple(StoredFile(f.name, f.stat().st_size, "0" * 64) for f in folder.iterdir())
    return Manifest("tiny", 1, "tiny", f"file:{folder}", "onnx", files, "2026-11-01T00:00:00+00:00",
                    context_length=tiny_onnx.CONTEXT)  # fmt: skip


def request(folder: Path, *arguments: str) -> LoadRequest:
    return LoadRequest("tiny:1", folder, Endpoint(path="/tmp/x/w.sock"), 256, 4, engine_arguments=arguments)


def test_a_library_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Onnx().missing() is None
    assert "onnx" in runnable_formats()
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "llguidance" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert Onnx().missing() == "not installed: pip install 'localfoundry[onnx]'"
    assert "onnx" not in runnable_formats()


def test_it_runs_chats_and_says_what_it_does_not_run() -> None:
    assert Onnx().takes(ModelFacts("onnx", "phi3")) is None
    assert Onnx().takes(ModelFacts("onnx", tasks=("embeddings",))) == "it does not run models for embeddings"


def test_the_command_line(folder: Path) -> None:
    command = Onnx().command(request(folder, "--threads", "3"), config.load())
    assert command.argv[1:3] == ("-m", "localfoundry.workers.onnx")
    told = " ".join(command.argv[3:])
    assert told == (
        f"--model {folder} --alias tiny:1 --device CPU --context 256 --parallel 4 --socket /tmp/x/w.sock --threads 3"
    )
    assert command.engine == "onnx"
    assert command.device == "CPU"
    assert command.reason.startswith("onnxruntime 1.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ctx-size", "5"), "onnx has no argument '--ctx-size'"),
        (("--threads",), "--threads '' is not valid: expected a whole number from 1 to 1024"),
        (("--threads=0",), "--threads '0' is not valid"),
        (("--threads=2x",), "--threads '2x' is not valid"),
    ],
)
def test_an_argument_that_it_does_not_know_is_refused_by_name(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        onnx_arguments.words(arguments, "tiny")
    assert onnx_arguments.words(["--threads=8"], "tiny") == ["--threads", "8"]


def test_memory_grows_with_the_context_and_the_largest_one_fits(folder: Path) -> None:
    engine, manifest = Onnx(), of(folder)
    small, large = (engine.memory(manifest, folder, context, 4)["cpu"] for context in (128, 256))
    per_token = 2 * tiny_onnx.LAYERS * tiny_onnx.KV_HEADS * tiny_onnx.HEAD_DIM * 4
    assert large - small == 128 * per_token
    assert engine.largest_context(manifest, folder, large, 4) == 256
    assert engine.largest_context(manifest, folder, 10**12, 4) == tiny_onnx.CONTEXT
    assert engine.largest_context(manifest, folder, 1000, 4) is None
    (folder / "genai_config.json").unlink()
    assert engine.memory(manifest, folder, 256, 4)["cpu"] > 0


def test_what_the_worker_wrote_is_read() -> None:
    log = "\nkv_cache_bytes=1234\nengine_load_s=0.5123\n"
    account = Onnx().account(log)
    assert account.memory == {"kv_cache": 1234}
    assert account.load_s == 0.5123
    failed = "[E:onnxruntime] something\nerror: Load model from /home/anna/models/x/model.onnx failed: bad\n"
    assert Onnx().complaint(failed) == "Load model from model.onnx failed: bad"
    assert Onnx().complaint("one\ntwo\nthree\n") == "two; three"
    assert Onnx().short_of_memory("error: std::bad_alloc")
    assert not Onnx().short_of_memory(failed)
