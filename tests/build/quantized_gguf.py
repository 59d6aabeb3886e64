"""A small llama model whose tensors have the types that a test wants, with weights as trained ones are spread."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import quants

COLUMNS = 256
# Of types that the package reads but does not write: where in a block the float16 scales are.
_SCALES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def raw_blocks(kind: str, rows: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A matrix of `COLUMNS` columns in that type, shape (rows, bytes of a row)."""
    random = np.random.default_rng(seed)
    number = Type[kind]
    if kind not in _SCALES:
        weights = (random.standard_t(5, (rows, COLUMNS)) * 0.05).astype(np.float32)
        made: npt.NDArray[np.uint8] = quants.quantize(weights, number).view(np.uint8)
        return made.reshape(rows, -1)
    values, size = gguf.GGML_QUANT_SIZES[number]
    raw = random.integers(0, 256, (rows * COLUMNS // values, size), dtype=np.uint8)
    for at in _SCALES[kind]:
        raw[:, at : at + 2] = (random.random((len(raw), 1)) * 1e-3 + 1e-4).astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def write_model(
    path: Path, kinds: tuple[str, ...], *, rows: int = 64, seed: int = 0, alignment: int = 32, file_type: int = 3
) -> Path:
    """A model with one matrix of each type and a norm in F32; the same bytes for the same arguments."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.data_alignment = alignment
    if alignment != 32:
        writer.add_uint32("general.alignment", alignment)
    writer.add_file_type(file_type)
    writer.add_context_length(2048)
    writer.add_embedding_length(COLUMNS)
    writer.add_block_count(2)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    writer.add_tensor("output_norm.weight", np.linspace(0.5, 1.5, COLUMNS, dtype=np.float32))
    for number, kind in enumerate(kinds):
        name = "token_embd.weight" if number == 0 else f"blk.{number - 1}.ffn_up.weight"
        if kind in ("F32", "F16"):
            weights = np.random.default_rng(seed + number).standard_normal((rows, COLUMNS)) * 0.05
            writer.add_tensor(name, weights.astype(np.float32 if kind == "F32" else np.float16))
        else:
            some = raw_blocks(kind, min(rows, 64), seed + number)
            writer.add_tensor(name, np.tile(some, (rows // len(some), 1)), raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
