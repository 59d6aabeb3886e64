"""What source weights in float32 say over a fixed text: the yardstick that a fidelity is measured against.

A reference is computed once, with `transformers` on the source weights (`benchmarks/fidelity_reference.py`), and kept
as one small file: for each scored position the likeliest tokens with their log-probabilities, the mass of all others,
and the log-probability of the token that follows; and what greedy decoding answers to fixed prompts. It holds token
ids, so that no tokenizer takes part in a comparison. Plain Python: a command line must be able to read it at once.

Layout: xz over msgpack. Log-probabilities are float16, which moves a mean divergence by
less than 0.0001.
"""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import msgspec

from localfoundry.errors import BadReference

FOLDER = Path(__file__).parent / "references"
MAX_FILE_BYTES = 16 * 2**20
_MAX_UNPACKED_BYTES = 64 * 2**20


class Continuation(msgspec.Struct, frozen=True):
    """A prompt as token ids, and what follows it when the likeliest token is taken each time."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: tuple[str, ...]  # of the answer up to and with each token


class Packed(msgspec.Struct, frozen=True):
    """The file's form. Arrays are little-endian, one row after the other; `top` values in each row of the first two."""

    source_sha256: tuple[str, ...]  # files that hold these weights
    tokenizer_sha256: str  # of the tokens' texts, each followed by a zero byte
    model: str
    made_with: dict[str, str]  # versions of what computed it
    chunks: tuple[tuple[int, ...], ...]  # token ids of the text
    first: int  # the first scored position of each chunk: the token there is predicted from those before it
    top: int
    ids: bytes  # uint32
    logprobs: bytes  # float16
    tail: bytes  # float32: mass of all tokens that are not in `ids`
    target: bytes  # float32: log-probability of the token that follows
    greedy: tuple[Continuation, ...]


class Row(msgspec.Struct, frozen=True):
    """The next token's distribution at one position: the likeliest first, natural logarithms."""

    chunk: int
    position: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tail: float
    target: int
    target_logprob: float


class Reference:
    """A reference as it is used."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self.chunks = packed.chunks
        self.greedy = packed.greedy

    @property
    def positions(self) -> int:
        """Scored positions in all."""
        return sum(len(chunk) - self.packed.first for chunk in self.chunks)

    def rows(self, every: int = 1) -> list[Row]:
        """Each `every`th scored position of each chunk."""
        found, number = [], 0
        for index, chunk in enumerate(self.chunks):
            for position in range(self.packed.first, len(chunk)):
                if (position - self.packed.first) % every == 0:
                    found.append(self._row(number, index, position))
                number += 1
        return found

    def _row(self, number: int, chunk: int, position: int) -> Row:
        top, packed = self.packed.top, self.packed
        (tail,) = struct.unpack_from("<f", packed.tail, 4 * number)
        (target,) = struct.unpack_from("<f", packed.target, 4 * number)
        return Row(
            chunk=chunk,
            position=position,
            ids=struct.unpack_from(f"<{top}I", packed.ids, 4 * top * number),
            logprobs=struct.unpack_from(f"<{top}e", packed.logprobs, 2 * top * number),
            tail=tail,
            target=packed.chunks[chunk][position],
            target_logprob=target,
        )


def read(path: Path) -> Reference:
    """A reference from its file. Raises BadReference."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise BadReference(f"cannot read {path}: {exc.strerror}") from exc
    try:
        plain = lzma.LZMADecompressor(memlimit=256 * 2**20).decompress(data, _MAX_UNPACKED_BYTES)
        packed = msgspec.msgpack.decode(plain, type=Packed)
    except (lzma.LZMAError, msgspec.MsgspecError, EOFError) as exc:
        raise BadReference(f"{path.name} is no reference for fidelity: {exc}") from exc
    _check(path, packed)
    return Reference(packed)


def _check(path: Path, packed: Packed) -> None:
    rows = sum(len(chunk) - packed.first for chunk in packed.chunks)
    sizes = {"ids": 4 * packed.top, "logprobs": 2 * packed.top, "tail": 4, "target": 4}
    wrong = [name for name, size in sizes.items() if len(getattr(packed, name)) != rows * size]
    if wrong or packed.first < 1 or any(len(chunk) <= packed.first for chunk in packed.chunks):
        raise BadReference(f"{path.name} is damaged: {', '.join(wrong) or 'its chunks'} do not have its {rows} rows")


def write(path: Path, packed: Packed) -> None:
    """Keep a reference. Blocking."""
    path.write_bytes(lzma.compress(msgspec.msgpack.encode(packed), preset=9 | lzma.PRESET_EXTREME))


def shipped() -> list[Path]:
    """The references that come with the product."""
    return sorted(FOLDER.glob("*.reference"))
