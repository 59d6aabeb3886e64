"""Where a model's shape comes from: the version's own file, or a catalog's facts where there is no file yet.

A version pulled by this release has its shape in the manifest; for older ones the header is read once per process and
kept. The header is the same from a file and from afar (`sources/remote.py`), so both give the same bytes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from localfoundry.catalog.model import Architecture
from localfoundry.errors import DiskError, NotAModel
from localfoundry.formats import shape as formats_shape
from localfoundry.formats.shape import LayerKind, ModelShape, WeightGroup
from localfoundry.formats.split import read_model

# What a file called so holds, share of bytes by type: mixes put some matrices into finer types.
_MIXES = {
    "Q4_K_M": (("Q4_K", 0.72), ("Q6_K", 0.28)), "Q4_K_S": (("Q4_K", 0.9), ("Q5_K", 0.1)),
    "Q5_K_M": (("Q5_K", 0.72), ("Q6_K", 0.28)), "Q5_K_S": (("Q5_K", 1.0),), "Q3_K_M": (("Q3_K", 0.7), ("Q5_K", 0.3)),
    "Q3_K_L": (("Q3_K", 0.6), ("Q5_K", 0.4)), "Q2_K_S": (("Q2_K", 0.8), ("Q4_K", 0.2)),
}  # fmt: skip
# Bits for each parameter of files called so: of plain types by ggml's blocks (ggml-common.h), of mixes as usual.
_BITS = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K_M": 5.7, "Q5_K_S": 5.55, "Q5_1": 6.0,
    "Q5_0": 5.5, "Q4_K_M": 4.85, "Q4_K_S": 4.6, "Q4_1": 5.0, "Q4_0": 4.5, "IQ4_NL": 4.5, "IQ4_XS": 4.3, "MXFP4": 4.25,
    "Q3_K_L": 4.2, "Q3_K_M": 3.9, "Q3_K_S": 3.5, "Q2_K": 3.2, "Q2_K_S": 2.8,
}  # fmt: skip
_UNKNOWN_BITS = 5.0
EMBEDDING_TYPE = "Q6_K"  # taken for embedding and head of any file
_BYTES_PER_TEXT = 16  # of a vocabulary, with its length; measured over the usual ones


def bits_per_parameter(quantization: str | None) -> float | None:
    """Of a file called so, the middle mix where it is not said which; None for a name that is not known."""
    name = (quantization or "").upper()
    return _BITS.get(name, _BITS.get(f"{name}_M"))


def of_file(path: Path) -> ModelShape | None:
    """The shape of a GGUF on this disk, read once while the file does not change. Blocking.

    None where the header does not tell it, or cannot be read: a load will say why. Raises nothing.
    """
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except (OSError, DiskError, NotAModel):
        return None


@lru_cache(maxsize=64)
def _read(path: Path, mtime_ns: int, size_bytes: int) -> ModelShape | None:
    return formats_shape.of_gguf(read_model(path))


def mix_of(quantization: str | None) -> tuple[tuple[str, float], ...]:
    """Types of the matrices in a file called so, with their share of the bytes, the largest first."""
    return _MIXES.get(quantization or "", ((quantization or "Q4_K", 1.0),))


def assumed_bytes(architecture: Architecture, quantization: str | None) -> int:
    """Parameters at the bits of the quantization, else at five."""
    return int(architecture.parameters() * _BITS.get(quantization or "", _UNKNOWN_BITS) / 8)


def of_catalog(
    architecture: Architecture, size_bytes: int | None, quantization: str | None, family: str = "llama"
) -> ModelShape:
    """The shape of a plain decoder from a catalog's facts: good for a first answer, and marked as not exact.

    `size_bytes` of the file; where that is not known, parameters at the bits of the quantization, else at five.
    """
    a = architecture
    parameters = a.parameters()
    size = size_bytes or assumed_bytes(a, quantization)
    embedding = a.vocab_size * a.hidden_size
    share = embedding / parameters
    groups, at = [WeightGroup(EMBEDDING_TYPE, False, int(size * share), 0, int(size * share))], int(size * share)
    for kind, part in mix_of(quantization):
        taken = int((size - int(size * share)) * part)
        groups.append(WeightGroup(kind, True, taken, at, at + taken))
        at += taken
    kept = a.kv_heads * a.head_dim
    head = 0 if a.tied_embeddings else int(size * share)
    return ModelShape(
        architecture=family,
        layers=(LayerKind(a.layers, kept, kept),),
        hidden=a.hidden_size,
        ffn=a.ffn_size,
        heads=a.attention_heads,
        head_dim=a.head_dim,
        kv_heads=a.kv_heads,
        vocabulary=a.vocab_size,
        weights=tuple(groups),
        embedding_bytes=int(size * share),
        output_bytes=head,
        output_type=EMBEDDING_TYPE,
        active_bytes=size - (0 if a.tied_embeddings else int(size * share)),
        active_parameters=parameters - (0 if a.tied_embeddings else embedding),
        context_length=a.context_length,
        tokens=a.vocab_size,
        token_bytes=a.vocab_size * _BYTES_PER_TEXT,
        merges=a.vocab_size,
        quantization=quantization,
        exact=False,
        sized=size_bytes is not None,
    )
