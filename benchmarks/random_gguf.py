"""GGUF files with random weights in the shapes of known models: what a load of them takes is what the model's would.

An engine allocates by shapes and types, never by values, so random bytes with small scales do. The vocabulary has the
model's size, its first texts are a given tokenizer's: an engine keeps every text and merge in memory. Dimensions are
the published ones; where layers are left out, the name says how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

_BLOCKS = 8192  # random blocks of each type, repeated over a tensor
_SCALE = np.float16(0.001)
# Where in a block the half-precision scales are; the rest may be any bytes.
_SCALES_AT = {
    Type.Q4_0: (0,), Type.Q4_1: (0, 2), Type.Q5_0: (0,), Type.Q5_1: (0, 2), Type.Q8_0: (0,), Type.Q2_K: (80, 82),
    Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,), Type.IQ4_NL: (0,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's dimensions as its card gives them, in the words of GGUF.

    `window_pattern` n: every layer but each nth has the sliding window. `extra`: further keys of the architecture.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    tied: bool = True
    bias: bool = False
    qk_norm: bool = False
    fused: bool = False  # one tensor for queries, keys and values, one for gate and up
    post_norms: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    window: int = 0
    window_pattern: int = 0
    kv_heads_per_layer: tuple[int, ...] = ()  # 0: a layer with a short convolution instead
    convolution: int = 0  # tokens of it
    lora: int = 0  # rank of latent keys and values
    query_lora: int = 0
    rope_dim: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def shortened(self, layers: int) -> Shape:
        """With fewer layers, to be small enough for the machine; the name says so."""
        heads = self.kv_heads_per_layer[:layers]
        return replace(self, name=f"{self.name} ({layers} layers)", layers=layers, kv_heads_per_layer=heads)

    def changed(self, **fields: Any) -> Shape:
        return replace(self, **fields)


QWEN25 = Shape("Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 14, 2, 64, 151_936, 32768, bias=True)
QWEN3 = Shape("Qwen3-0.6B", "qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, 40960, qk_norm=True)
LLAMA32 = Shape("Llama-3.2-1B", "llama", 16, 2048, 8192, 32, 8, 64, 128_256, 131_072)
PHI4 = Shape(
    "Phi-4-mini", "phi3", 32, 3072, 8192, 24, 8, 128, 200_064, 131_072, fused=True, window=262_144, rope_dim=96,
    extra={"rope.scaling.original_context_length": 4096},
)  # fmt: skip
GEMMA2 = Shape(
    "Gemma-2-2B", "gemma2", 26, 2304, 9216, 8, 4, 256, 256_000, 8192, post_norms=True, window=4096, window_pattern=2,
    extra={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
)  # fmt: skip
GEMMA3 = Shape(
    "Gemma-3-1B", "gemma3", 26, 1152, 6912, 4, 1, 256, 262_144, 32768, qk_norm=True, post_norms=True, window=512,
    window_pattern=6,
)  # fmt: skip
MIXTURE = Shape(
    "Qwen3-30B-A3B", "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151_936, 40960, tied=False, qk_norm=True, experts=128,
    experts_used=8, expert_ffn=768,
)  # fmt: skip
SMALL_MIXTURE = Shape(
    "a mixture of 32 experts", "qwen3moe", 24, 1024, 512, 16, 8, 64, 49_152, 32768, qk_norm=True, experts=32,
    experts_used=8, expert_ffn=512,
)  # fmt: skip
HYBRID = Shape(
    "LFM2-350M", "lfm2", 16, 1024, 4608, 16, 8, 64, 65_536, 32768, qk_norm=True, convolution=3,
    kv_heads_per_layer=(0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0),
)  # fmt: skip
LATENT = Shape(
    "a latent attention", "deepseek2", 12, 2048, 8192, 16, 16, 192, 102_400, 163_840, tied=False, experts=16,
    experts_used=4, expert_ffn=1408, lora=512, query_lora=1024, rope_dim=64,
)  # fmt: skip


class Tokenizer:
    """The tokenizer of a GGUF with byte-pair merges; reading it takes seconds, so it is done once."""

    def __init__(self, path: Path) -> None:
        fields = gguf.GGUFReader(path).fields
        self.tokens, self.types, self.merges, self.pre, self.template = (
            fields[key].contents()
            for key in (
                "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.pre",
                "tokenizer.chat_template",
            )
        )  # fmt: skip
        names = (f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "padding"))
        self.ids = {name: fields[name].contents() for name in names}


def write(shape: Shape, kind: Type, path: Path, tokenizer: Tokenizer) -> None:
    """The file, with weights of type `kind`, norms in F32, and the tokenizer padded to the shape's vocabulary."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    _write_metadata(writer, shape)
    _write_vocabulary(writer, shape.vocabulary, tokenizer)
    tensors = [(name, dims, kind if len(dims) > 1 and not name.endswith(_SMALL) else Type.F32)
               for name, dims in _tensors(shape)]  # fmt: skip
    for name, dims, of in tensors:
        writer.add_tensor_info(name, dims, np.dtype(np.float32), size_bytes(dims, of), of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    blocks: dict[Type, Any] = {}
    for _, dims, of in tensors:
        if of not in blocks:
            blocks[of] = _random_blocks(of)
        writer.write_tensor_data(np.resize(blocks[of], size_bytes(dims, of)))
    writer.close()


_SMALL = ("ffn_gate_inp.weight", "shortconv.conv.weight")  # converters keep these in F32


def size_bytes(dims: tuple[int, ...], kind: Type) -> int:
    """Bytes of a tensor whose last dimension is the row, in whole blocks."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    assert dims[-1] % values == 0, (dims, kind)
    return int(np.prod(dims, dtype=np.int64)) // values * size


def _random_blocks(kind: Type) -> Any:
    rng = np.random.default_rng(1)
    if kind is Type.F32:
        return (rng.standard_normal(_BLOCKS, dtype=np.float32) * 0.02 + 1).view(np.uint8)
    if kind is Type.F16:
        return (rng.standard_normal(_BLOCKS) * 0.02).astype(np.float16).view(np.uint8)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (_BLOCKS, size), dtype=np.uint8)
    for at in _SCALES_AT[kind]:
        blocks[:, at : at + 2] = np.frombuffer(_SCALE.tobytes(), np.uint8)
    return blocks.reshape(-1)


def _write_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(list(shape.kv_heads_per_layer) or (1 if shape.lora else shape.kv_heads))
    writer.add_key_length(shape.lora + shape.rope_dim if shape.lora else shape.head_dim)
    writer.add_value_length(shape.lora or shape.head_dim)
    writer.add_rope_dimension_count(shape.rope_dim or shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocabulary)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.expert_ffn)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.convolution:
        writer.add_shortconv_l_cache(shape.convolution)
    if shape.lora:
        writer.add_kv_lora_rank(shape.lora)
        writer.add_q_lora_rank(shape.query_lora)
        writer.add_key_length_mla(shape.head_dim)
        writer.add_value_length_mla(shape.head_dim - shape.rope_dim)
        writer.add_leading_dense_block_count(1)
        writer.add_expert_shared_count(2)
        writer.add_expert_weights_scale(1.0)
    for key, value in shape.extra.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{shape.architecture}.{key}", value)


def _write_vocabulary(writer: gguf.GGUFWriter, size: int, known: Tokenizer) -> None:
    """The known tokenizer's texts, then made-up ones, and as many merges as texts, as real vocabularies have."""
    missing = max(size - len(known.tokens), 0)
    made_up = [f"Ġ{n:06x}" for n in range(missing)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(known.pre)
    writer.add_token_list((known.tokens + made_up)[:size])
    writer.add_token_types((known.types + [1] * missing)[:size])
    writer.add_token_merges(known.merges + [f"{text[:4]} {text[4:]}" for text in made_up])
    for key, value in known.ids.items():
        writer.add_uint32(key, value)
    writer.add_chat_template(known.template)


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions, rows last, as the engine expects them of the architecture."""
    yield "token_embd.weight", (shape.vocabulary, shape.hidden)
    yield ("token_embd_norm.weight" if shape.convolution else "output_norm.weight"), (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.hidden)
    if shape.architecture == "phi3":
        for length in ("long", "short"):
            yield f"rope_factors_{length}.weight", (shape.rope_dim // 2,)
    for layer in range(shape.layers):
        for name, dims in _layer(shape, layer):
            yield f"blk.{layer}.{name}", dims


def _layer(shape: Shape, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "attn_norm.weight", (shape.hidden,)
    if shape.kv_heads_per_layer and not shape.kv_heads_per_layer[layer]:
        yield "shortconv.conv.weight", (shape.hidden, shape.convolution)
        yield "shortconv.in_proj.weight", (3 * shape.hidden, shape.hidden)
        yield "shortconv.out_proj.weight", (shape.hidden, shape.hidden)
    elif shape.lora:
        yield from _latent_attention(shape)
    else:
        yield from _attention(shape)
    if shape.post_norms:
        yield "post_attention_norm.weight", (shape.hidden,)
        yield "post_ffw_norm.weight", (shape.hidden,)
    yield "ffn_norm.weight", (shape.hidden,)
    if shape.experts and not (shape.lora and layer == 0):
        yield from _experts(shape)
    elif shape.fused:
        yield "ffn_up.weight", (2 * shape.ffn, shape.hidden)
        yield "ffn_down.weight", (shape.hidden, shape.ffn)
    else:
        yield "ffn_gate.weight", (shape.ffn, shape.hidden)
        yield "ffn_up.weight", (shape.ffn, shape.hidden)
        yield "ffn_down.weight", (shape.hidden, shape.ffn)


def _attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.fused:
        yield "attn_qkv.weight", (queries + 2 * keys, shape.hidden)
    else:
        for name, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield f"{name}.weight", (rows, shape.hidden)
            if shape.bias:
                yield f"{name}.bias", (rows,)
    yield "attn_output.weight", (shape.hidden, queries)
    if shape.qk_norm:
        yield "attn_q_norm.weight", (shape.head_dim,)
        yield "attn_k_norm.weight", (shape.head_dim,)


def _latent_attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    nope = shape.head_dim - shape.rope_dim
    yield "attn_q_a.weight", (shape.query_lora, shape.hidden)
    yield "attn_q_a_norm.weight", (shape.query_lora,)
    yield "attn_q_b.weight", (shape.heads * shape.head_dim, shape.query_lora)
    yield "attn_kv_a_mqa.weight", (shape.lora + shape.rope_dim, shape.hidden)
    yield "attn_kv_a_norm.weight", (shape.lora,)
    yield "attn_k_b.weight", (shape.heads, shape.lora, nope)
    yield "attn_v_b.weight", (shape.heads, nope, shape.lora)
    yield "attn_output.weight", (shape.hidden, shape.heads * nope)


def _experts(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "ffn_gate_inp.weight", (shape.experts, shape.hidden)
    yield "ffn_gate_exps.weight", (shape.experts, shape.expert_ffn, shape.hidden)
    yield "ffn_up_exps.weight", (shape.experts, shape.expert_ffn, shape.hidden)
    yield "ffn_down_exps.weight", (shape.experts, shape.hidden, shape.expert_ffn)
    if shape.lora:
        yield "ffn_gate_shexp.weight", (2 * shape.expert_ffn, shape.hidden)
        yield "ffn_up_shexp.weight", (2 * shape.expert_ffn, shape.hidden)
        yield "ffn_down_shexp.weight", (shape.hidden, 2 * shape.expert_ffn)
