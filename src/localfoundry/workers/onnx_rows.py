"""Keys and values of the requests that run: one row of a shared buffer for each, and rows that only remember.

ONNX Runtime's attention reads and writes a buffer of `rows x heads x capacity x head_dim` in place, each row with a
length of its own, so a batch is a run of neighbouring rows. Every row has addresses for the whole context and memory
only for the tokens that it has held: the buffer is a shared anonymous mapping, whose pages come when they are written
and which does not count against the limit of a worker's data. `release` gives a row's pages back (on Linux; elsewhere
they stay until the process ends).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np


class Rows:
    """`shapes`: (heads, head_dim, dtype) of each tensor of keys or values, in the graph's order."""

    def __init__(self, shapes: Sequence[tuple[int, int, np.dtype]], rows: int, context: int) -> None:
        page = mmap.ALLOCATIONGRANULARITY
        steps = [page // math.gcd(page, dim * dtype.itemsize) for _, dim, dtype in shapes]
        step = math.lcm(*steps)  # so that every row begins with a page
        # A row that does not take part in a batch, but lies within, is written to behind its last token.
        self.capacity = -(-(context + 1) // step) * step
        self._maps: list[mmap.mmap] = []
        self.tensors: list[np.ndarray] = []
        for heads, dim, dtype in shapes:
            memory = mmap.mmap(-1, rows * heads * self.capacity * dim * dtype.itemsize)
            self._maps.append(memory)
            self.tensors.append(np.frombuffer(memory, dtype).reshape(rows, heads, self.capacity, dim))
        self.token_bytes = sum(heads * dim * dtype.itemsize for heads, dim, dtype in shapes)

    def copy(self, source: int, target: int, tokens: int) -> None:
        for tensor in self.tensors:
            tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def swap(self, one: int, other: int, tokens: int) -> None:
        """Exchange the first `tokens` of two rows."""
        for tensor in self.tensors:
            kept = tensor[one, :, :tokens].copy()
            tensor[one, :, :tokens] = tensor[other, :, :tokens]
            tensor[other, :, :tokens] = kept

    def release(self, row: int) -> None:
        if not hasattr(mmap, "MADV_REMOVE"):
            return
        for memory, tensor in zip(self._maps, self.tensors, strict=True):
            size = tensor[row].nbytes
            memory.madvise(mmap.MADV_REMOVE, row * size, size)
