"""Telling what a file or folder is, and refusing what runs code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.gguf_file import tiny_llama
from localfoundry.errors import NotAModel
from localfoundry.formats.detect import identify


def safetensors(padding: int = 0) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(padding)
    return struct.pack("<Q", len(header)) + header + bytes(4)


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    return buffer.getvalue()


OPENVINO = [f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("model.gguf", tiny_llama(), "gguf"),
        ("model-without-suffix", tiny_llama(), "gguf"),
        ("old-name.bin", tiny_llama(), "gguf"),
        ("model.safetensors", safetensors(), "safetensors"),
        ("model.safetensors", safetensors(padding=0x280), "safetensors"),
        ("echo.fake.json", b"{}", "fake"),
    ],
)
def test_files_that_are_models(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert identify(tmp_path / name) == expected


@pytest.mark.parametrize("name", ["model.bin", "model.PT", "model.pth", "model.pkl", "model.ckpt", "model.gguf", "x"])
@pytest.mark.parametrize("data", [pickle.dumps({"a": 1}, protocol=4), torch_zip()])
def test_pickles_are_refused_under_any_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NotAModel, match="pickle") as caught:
        identify(tmp_path / name)
    assert "safetensors" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "not a model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"lmgg" + bytes(20), "before GGUF"),
        (struct.pack("<Q", 2**60) + b"{", "not a model"),
        (b"PK\x03\x04" + bytes(60), "not a model"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(NotAModel, match=reason):
        identify(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["genai_config.json", "model.onnx", "model.onnx.data"], "onnx"),
        (["README.md", "model-00001-of-00002.gguf"], "gguf"),
        (OPENVINO, "openvino"),
        (["config.json", "model.safetensors", "pytorch_model.bin"], "safetensors"),
    ],
)
def test_folders_that_are_models(tmp_path: Path, names: list[str], expected: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert identify(tmp_path) == expected


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "holds no model"),
        (["config.json", "pytorch_model.bin"], "pickle"),
        (["model.onnx"], "no genai_config.json"),
        (OPENVINO[:2], r"no openvino_tokenizer\.xml and no openvino_tokenizer\.bin and no openvino_detokenizer\.xml"),
        *(([name for name in OPENVINO if name != missing], f"no {missing}") for missing in OPENVINO),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(NotAModel, match=reason):
        identify(folder)


def test_what_is_not_there_and_what_is_no_file(tmp_path: Path) -> None:
    """A named pipe must not be opened: that waits until something writes to it."""
    with pytest.raises(NotAModel, match="nothing at"):
        identify(tmp_path / "absent.gguf")
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(NotAModel, match="not a regular file"):
        identify(pipe)


@given(st.binary(max_size=200))
def test_any_bytes_are_named_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes"
    path.write_bytes(data)
    with contextlib.suppress(NotAModel):
        assert identify(path) in ("gguf", "safetensors")
