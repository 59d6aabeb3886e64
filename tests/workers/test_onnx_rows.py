"""Rows of keys and values: addresses for the whole context, memory for what was written."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from localfoundry.service.memory import private_bytes
from localfoundry.workers.onnx_rows import Rows

SHAPES = [(2, 16, np.dtype(np.float32)), (2, 24, np.dtype(np.float16))]


def filled(rows: Rows, row: int, tokens: int, value: float) -> None:
    for tensor in rows.tensors:
        tensor[row, :, :tokens] = value


def test_rows_are_copied_and_exchanged() -> None:
    rows = Rows(SHAPES, 3, 100)
    filled(rows, 0, 10, 1.0)
    filled(rows, 1, 20, 2.0)
    rows.copy(0, 2, 10)
    rows.swap(0, 1, 20)
    for tensor in rows.tensors:
        assert np.all(tensor[2, :, :10] == 1)
        assert np.all(tensor[0, :, :20] == 2)
        assert np.all(tensor[1, :, :10] == 1)
        assert np.all(tensor[1, :, 10:20] == 0)
    assert rows.token_bytes == 2 * 16 * 4 + 2 * 24 * 2
    assert rows.capacity > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere memory is given back with the process")
def test_memory_comes_with_the_writing_goes_with_the_release_and_is_counted() -> None:
    """The service counts it as the worker's: shared mappings of nobody else were left out of it."""

    def own() -> int:
        found = private_bytes(os.getpid())
        assert found is not None
        return found

    before = own()
    rows = Rows([(64, 64, np.dtype(np.float32))], 8, 16_000)  # 2.1 GB of addresses, 16 KiB a token
    assert own() - before < 20_000_000
    filled(rows, 3, 4000, 1.0)
    filled(rows, 4, 1000, 2.0)
    held = own()
    assert held - before > 75_000_000
    rows.release(3)
    assert held - own() > 60_000_000
    assert np.all(rows.tensors[0][3, :, :4000] == 0)
    assert np.all(rows.tensors[0][4, :, :1000] == 2)
