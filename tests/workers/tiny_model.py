"""A model of two layers with random weights as a GGUF that OpenVINO reads: it loads in a second and speaks bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
_HIDDEN, _HEADS, _KV_HEADS, _HEAD_DIM, _FFN, _LAYERS = 64, 4, 2, 16, 128, 2
TOKENS = 320


def write(
    path: Path, architecture: str = "llama", kind: str = "Q8_0", context: int = 512, template: str = CHATML
) -> Path:
    """The same file for the same arguments."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_file_type({"F16": 1, "Q8_0": 7}[kind])
    writer.add_context_length(context)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_key_length(_HEAD_DIM)
    writer.add_value_length(_HEAD_DIM)
    writer.add_vocab_size(TOKENS)
    _add_tokens(writer, template)
    type_ = gguf.GGMLQuantizationType[kind]
    for name, values in _weights(architecture):
        if values.ndim > 1:
            writer.add_tensor(name, gguf.quants.quantize(values, type_), raw_dtype=type_)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: gguf.GGUFWriter, template: str) -> None:
    """Three marks, every byte as GPT-2 writes it, and pairs of common letters."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(letters[byte] for byte in range(256))]
    pairs = [(a, b) for a in "etaoinsh" for b in "etaoinsh"][: TOKENS - len(tokens)]
    tokens += [a + b for a, b in pairs]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (TOKENS - 3)])
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _weights(architecture: str) -> Iterator[tuple[str, Any]]:
    random = np.random.default_rng(0)

    def values(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.5).astype(np.float32)

    yield "token_embd.weight", values(TOKENS, _HIDDEN)
    yield "output_norm.weight", np.ones(_HIDDEN, np.float32)
    queries, keys = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", np.ones(_HIDDEN, np.float32)
        yield block + "ffn_norm.weight", np.ones(_HIDDEN, np.float32)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{block}attn_{name}.weight", values(rows, _HIDDEN)
            if architecture == "qwen2":
                yield f"{block}attn_{name}.bias", values(rows)
        if architecture in ("qwen3", "gemma3"):
            yield block + "attn_q_norm.weight", np.ones(_HEAD_DIM, np.float32)
            yield block + "attn_k_norm.weight", np.ones(_HEAD_DIM, np.float32)
        yield block + "attn_output.weight", values(_HIDDEN, queries)
        yield block + "ffn_gate.weight", values(_FFN, _HIDDEN)
        yield block + "ffn_up.weight", values(_FFN, _HIDDEN)
        yield block + "ffn_down.weight", values(_HIDDEN, _FFN)
