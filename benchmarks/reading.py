"""How OpenVINO's GGUF reader takes each tensor type: the weights that it builds beside those that the file holds.

    python benchmarks/reading.py STARTER.gguf [TYPE]...

Needs openvino-genai and gguf. For each type a llama of one layer with random matrices of that type is written, with a
part of the starter model's tokenizer; the reader makes an OpenVINO model of it, the weights of its matrices are
computed, and compared as rms of the differences over rms of the weights. Queries and keys are left out: the reader
orders their rows anew. Prints a JSON object: a number for each type, or the words of a refusal. What stands in
src/localfoundry/engines/faithful.py comes from here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import openvino
import openvino_genai
from gguf import GGMLQuantizationType as Type
from gguf import quants

WIDTH, HIDDEN, TOKENS, MERGES = 256, 512, 1000, 720  # a token for each byte, each merge, and some that are special
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
# Of types that the package reads but does not write: where in a block the float16 scales are.
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,),
           "IQ4_XS": (0,)}  # fmt: skip
_SHAPE = {
    "llama.block_count": 1, "llama.embedding_length": WIDTH, "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 64,
    "llama.vocab_size": TOKENS, "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": TOKENS,
    "tokenizer.ggml.merges": MERGES,
}  # fmt: skip
_MATRICES = {
    "attn_q": (WIDTH, WIDTH), "attn_k": (128, WIDTH), "attn_v": (128, WIDTH), "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
}  # fmt: skip


def matrix(kind: str, rows: int, columns: int, random: np.random.Generator) -> Any:
    """Blocks of that type whose values have a deviation of about 0.05."""
    if kind not in _SCALES:
        return quants.quantize((random.standard_normal((rows, columns)) * 0.05).astype(np.float32), Type[kind])
    values, size = gguf.GGML_QUANT_SIZES[Type[kind]]
    raw = random.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at in _SCALES[kind]:
        raw[:, at : at + 2] = random.uniform(0.5, 1, (len(raw), 1)).astype(np.float16).view(np.uint8)
    factor = 0.05 / quants.dequantize(raw.reshape(-1), Type[kind]).std()
    for at in _SCALES[kind]:
        scale = np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32) * factor
        raw[:, at : at + 2] = scale.astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def write_model(starter: gguf.GGUFReader, kind: str, path: Path) -> None:
    """A llama of one layer with matrices of that type."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in starter.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        value = field.contents()
        value = value[: _SHAPE[name]] if array and name in _SHAPE else _SHAPE.get(name, value)
        writer.add_key_value(name, value, field.types[0], field.types[-1] if array else None)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_tensor("token_embd.weight", (random.standard_normal((TOKENS, WIDTH)) * 0.05).astype(np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for name, (rows, columns) in _MATRICES.items():
        writer.add_tensor(f"blk.0.{name}.weight", matrix(kind, rows, columns, random), raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def changes(path: Path) -> float:
    """By how much the reader changes a file's matrices, the worst of them. Raises RuntimeError where it refuses."""
    openvino_genai.LLMPipeline(str(path), "CPU", enable_save_ov_model=True)
    core = openvino.Core()
    model = core.read_model(path.parent / "openvino_model.xml")
    wanted = {t.name: quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    found: dict[str, float] = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "MatMul" or not operation.input_value(1).get_partial_shape().is_static:
            continue
        part = openvino.Model([operation.input_value(1)], [])
        weights = core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0]
        for name, values in wanted.items():
            if values.shape == weights.shape and not any(part in name for part in ("attn_q", "attn_k", "token")):
                away = float(np.sqrt(np.square(weights - values).mean() / np.square(values).mean()))
                found[name] = min(away, found.get(name, away))
    assert len(found) == 5, "the matrices are not where they were"
    return max(found.values())


def main() -> None:
    starter = gguf.GGUFReader(sys.argv[1])
    found: dict[str, float | str] = {}
    for kind in sys.argv[2:] or FILE_TYPES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_model(starter, kind, path)
            try:
                found[kind] = round(changes(path), 6)
            except RuntimeError as exc:
                found[kind] = str(exc).strip().splitlines()[-1]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
