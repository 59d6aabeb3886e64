"""A GGUF file written again with some tensors in another type, in pieces, its error measured on the way.

The metadata is copied byte for byte but for the number of the file's type; tensors keep their order. The same source
gives the same bytes on every machine: nothing here depends on time, order of threads, or the machine's floating point
beyond single operations of IEEE 754. Memory is that of a few pieces, however large a tensor is. The header must have
been accepted by `formats/gguf.py` with the file's size, so that every tensor lies within the file.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from localfoundry.build import blocks, q8_0, rounding
from localfoundry.build.blocks import Bytes, Floats, Lattice
from localfoundry.errors import LossyEncoding
from localfoundry.formats.gguf import GgufHeader, Tensor
from localfoundry.formats.gguf_layout import read_head
from localfoundry.formats.gguf_types import BLOCKS, FILE_TYPE_NUMBERS, NUMBERS

LARGEST_ERROR = 0.005  # of the largest value of the tensor: half a level of 255 is 0.0039, and float16 rounds the step
RMS_ERROR = 0.01  # of the root mean square of the tensor's values
_PIECE_VALUES = 2**19

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it. Errors are those of the tensor that is worst in it: shares, see LARGEST_ERROR and RMS_ERROR."""

    sha256: str
    size_bytes: int
    largest_error: float
    rms_error: float


class _Error:
    """How far new values of one tensor are from the old ones."""

    def __init__(self) -> None:
        self.squares = self.old_squares = self.largest = self.old_largest = 0.0

    def add(self, old: Floats, new: Floats) -> None:
        difference = (new - old).reshape(-1)
        old = old.reshape(-1)
        self.squares += float(np.dot(difference, difference))
        self.old_squares += float(np.dot(old, old))
        self.largest = float(np.maximum(self.largest, max(difference.max(), -difference.min())))  # NaN stays NaN
        self.old_largest = float(np.maximum(self.old_largest, max(old.max(), -old.min())))

    def shares(self) -> tuple[float, float]:
        if self.largest == 0.0:
            return 0.0, 0.0
        if not self.old_squares:
            return math.inf, math.inf
        return self.largest / self.old_largest, math.sqrt(self.squares / self.old_squares)


def write(
    source: Path, header: GgufHeader, types: Mapping[str, str], file_type: str, target: Path, report: Report,
    *, bounded: bool = True,
) -> Written:  # fmt: skip
    """Write `target` with the type that `types` has for a tensor's name, or its own. Blocking.

    `report` gets the bytes of the source that are done, and may raise to end it. Raises LossyEncoding, with the
    tensor's name, where an error is above its bound (`bounded`) or a value is not a number.
    """
    head = read_head(source, FILE_TYPE_NUMBERS[file_type])
    # Weights that are no numbers are found by their error.
    with np.errstate(all="ignore"), source.open("rb") as old, target.open("wb") as new:
        sink = _Sink(new)
        sink.write(head.data)
        sink.write(_listing(header, types, head.alignment))
        sink.pad(head.alignment)
        worst, done = (0.0, 0.0), 0
        for tensor in header.tensors:
            error = _Error()
            for raw in _pieces(old, header.header_bytes + tensor.offset, tensor):
                sink.write(_converted(tensor.type, types.get(tensor.name, tensor.type), raw, error).data)
                done += raw.size
                report(done)
            sink.pad(head.alignment)
            shares = error.shares()
            _refuse_lossy(source, tensor, types.get(tensor.name, tensor.type), shares, bounded=bounded)
            worst = max(worst[0], shares[0]), max(worst[1], shares[1])
    report(header.file_size_bytes or done)
    return Written(sink.digest.hexdigest(), sink.size, *worst)


def _refuse_lossy(source: Path, tensor: Tensor, to: str, shares: tuple[float, float], *, bounded: bool) -> None:
    if not bounded and all(math.isfinite(share) for share in shares):
        return
    if shares[0] <= LARGEST_ERROR and shares[1] <= RMS_ERROR:
        return
    raise LossyEncoding(
        f"{tensor.name[:64]} of {source.name} would change by {shares[1]:.2%} (rms; at most {RMS_ERROR:.2%}) and "
        f"{shares[0]:.2%} of its largest value (at most {LARGEST_ERROR:.2%}) from {tensor.type} to {to}"
    )


def _bytes_of(tensor: Tensor, kind: str) -> int:
    values, size = BLOCKS[kind]
    return tensor.values // values * size


def _listing(header: GgufHeader, types: Mapping[str, str], alignment: int) -> bytes:
    """The list of tensors: name, dimensions, type, and where in the data each begins."""
    listed, offset = bytearray(), 0
    for tensor in header.tensors:
        kind = types.get(tensor.name, tensor.type)
        name = tensor.name.encode()
        rank = len(tensor.dims)
        listed += struct.pack(f"<Q{len(name)}sI{rank}QIQ", len(name), name, rank, *tensor.dims, NUMBERS[kind], offset)
        offset += -(-_bytes_of(tensor, kind) // alignment) * alignment
    return bytes(listed)


class _Sink:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._file.write(view)
        self.digest.update(view)
        self.size += view.nbytes

    def pad(self, alignment: int) -> None:
        self.write(b"\0" * (-self.size % alignment))


def _pieces(file: BinaryIO, offset: int, tensor: Tensor) -> Iterator[Bytes]:
    """The data of a tensor in whole blocks."""
    values, size = BLOCKS[tensor.type]
    left = tensor.values // values * size
    file.seek(offset)
    while left:
        data = file.read(min(left, max(1, _PIECE_VALUES // values) * size))
        assert data, "the file became shorter"
        left -= len(data)
        yield np.frombuffer(data, dtype=np.uint8)


def _converted(kind: str, to: str, raw: Bytes, error: _Error) -> Bytes:
    if kind == to:
        return raw
    old = _apart(kind, raw)
    values = old.values() if isinstance(old, Lattice) else old
    if to == "F16":
        halves = values.astype("<f2")  # too large a value becomes infinite, and the error with it
        error.add(values, halves.astype(np.float32))
        return halves.view(np.uint8).reshape(-1)
    if to == "BF16":
        upper = rounding.upper_halves(values.reshape(-1))
        error.add(values.reshape(-1), _widened(upper))
        return upper.view(np.uint8)
    values = values.reshape(-1, blocks.BLOCK)
    if to == "Q8_0":
        packed = q8_0.encode(old if isinstance(old, Lattice) else values)
        error.add(values, q8_0.decode(packed))
    else:
        packed = rounding.encode(to, values)
        again = blocks.take_apart(to, packed)
        error.add(values, again.values() if isinstance(again, Lattice) else again)
    return packed.reshape(-1)


def _apart(kind: str, raw: Bytes) -> Lattice | Floats:
    if kind == "F32":
        return raw.view("<f4")
    if kind == "F16":
        return raw.view("<f2").astype(np.float32)
    if kind == "BF16":
        return _widened(raw.view("<u2"))
    return blocks.take_apart(kind, raw.reshape(-1, BLOCKS[kind][1]))


def _widened(upper: rounding.Upper) -> Floats:
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)
