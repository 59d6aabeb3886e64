"""Coverage-guided fuzzing of the header readers: any bytes are read or refused, soon and in little memory.

    pip install atheris msgspec
    python fuzz/headers.py gguf|safetensors|onnx|config [CORPUS] [-max_total_time=120] [-rss_limit_mb=1024] ...

Not part of the tests, since atheris has no wheel for every system. What it finds is kept in tests/formats/found/ as
`READER-what-it-was`, where the tests read it again for ever.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["localfoundry.formats"]):
    from localfoundry.errors import NotAModel
    from localfoundry.formats import gguf, onnx, safetensors
    from localfoundry.formats.tokens import Vocabulary, special_tokens


def fuzz_gguf(data: bytes) -> None:
    fetched = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal fetched
        piece = data[offset : offset + size]
        fetched += len(piece)
        return piece

    header = gguf.read_header(read, len(data))
    header.shape()
    if header.tokens is not None:
        special_tokens(header, Vocabulary(read, header.tokens))
    assert fetched <= 8 * len(data) + 2**20, "bytes are read over and over"


def fuzz_safetensors(data: bytes) -> None:
    header = safetensors.read_header(lambda offset, size: data[offset : offset + size], len(data))
    assert header.header_bytes + header.data_bytes == len(data)
    assert header.parameters >= 0


def fuzz_onnx(data: bytes) -> None:
    found = onnx.read_config(data, lambda name: not name.startswith("/"))
    assert not any(".." in name.split("/") or "\\" in name for name in found.files)


def fuzz_config(data: bytes) -> None:
    safetensors.read_config(data)


TARGETS = {"gguf": fuzz_gguf, "safetensors": fuzz_safetensors, "onnx": fuzz_onnx, "config": fuzz_config}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        with contextlib.suppress(NotAModel):
            target(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
