"""Which type each tensor of a model gets when it is quantized: llama.cpp's rules, as far as a plan needs them.

Norms, biases, routers and other small tensors keep their type. The tensor that turns states into tokens (`output`, or
the embeddings where both are one) is worth more bits than the rest. A row that does not fill whole blocks falls back to
a type with smaller ones. Where llama.cpp takes Q6_K for the output, the quantizations made here without it take Q8_0:
the search for Q6_K's steps is not ours, and the output gains.

Source: `tensor_allows_quantization`, `tensor_type_fallback` and `llama_tensor_get_type_impl` in src/llama-quant.cpp.
For the mixtures with `_M` and `_L`, which choose by layer, only the share of the larger type is known here: sizes of
those are estimates, within 10 % of what llama-quantize makes (`make test-native`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from localfoundry.formats.gguf import GgufHeader, Tensor
from localfoundry.formats.gguf_types import BLOCKS

HALF = ("F16", "BF16")
PLAIN = (*HALF, "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # made without llama.cpp, from the largest to the smallest
# Of the other types a quantization may have: most tensors' type, and bits that a mixture adds to each of their values.
_MIXTURES: dict[str, tuple[str, float]] = {
    "Q6_K": ("Q6_K", 0), "Q5_K_M": ("Q5_K", 0.19), "Q5_K_S": ("Q5_K", 0.03),
    "Q4_K_M": ("Q4_K", 0.35), "Q4_K_S": ("Q4_K", 0.09), "Q3_K_L": ("Q3_K", 0.83), "Q3_K_M": ("Q3_K", 0.47),
    "Q3_K_S": ("Q3_K", 0), "Q2_K": ("Q2_K", 0.38), "Q2_K_S": ("Q2_K", 0.2), "IQ4_NL": ("IQ4_NL", 0.06),
    "IQ4_XS": ("IQ4_XS", 0.1), "IQ3_M": ("IQ3_S", 0.25), "IQ3_S": ("IQ3_S", 0.06), "IQ3_XS": ("IQ3_S", -0.15),
    "IQ3_XXS": ("IQ3_XXS", 0.1), "IQ2_M": ("IQ2_S", 0.2), "IQ2_S": ("IQ2_XS", 0.2), "IQ2_XS": ("IQ2_XS", 0.1),
    "IQ2_XXS": ("IQ2_XXS", 0.1), "IQ1_M": ("IQ1_M", 0.1), "IQ1_S": ("IQ1_S", 0.1), "TQ2_0": ("TQ2_0", 0),
    "TQ1_0": ("TQ1_0", 0),
}  # fmt: skip
TYPES = (*PLAIN, *_MIXTURES)
NEED_IMATRIX = frozenset({"IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S"})
_FALLBACK = {
    "IQ1_S": "IQ4_NL", "IQ1_M": "IQ4_NL", "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|^(position_embd|token_types)\.weight|attn_rel_b\.weight"
    r"|time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_(embd|merger)|a\.rvq\.codebook|mm\.a\.code_embd"
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"

Overrides = Sequence[tuple[str, str]]  # a regular expression and the type of the tensors whose name it finds


def quantizable(tensor: Tensor) -> bool:
    """Whether a tensor's type may change: a matrix of weights that is not known to need its precision."""
    dims = [size for size in tensor.dims if size > 1]
    return len(dims) > 1 and tensor.name.endswith("weight") and _KEPT.search(tensor.name) is None


def plain_types(header: GgufHeader, target: str, overrides: Overrides = ()) -> dict[str, str]:
    """The new type of every tensor that changes, by name, for a `target` of PLAIN; the first override that fits wins.

    F16 and BF16 take no overrides, as with llama.cpp.
    """
    found = {t.name: _plain_type(header, t, target, overrides) for t in header.tensors if quantizable(t)}
    return {t.name: found[t.name] for t in header.tensors if found.get(t.name, t.type) != t.type}


def _plain_type(header: GgufHeader, tensor: Tensor, target: str, overrides: Overrides) -> str:
    if target in HALF:
        return target
    chosen = next((kind for pattern, kind in overrides if re.search(pattern, tensor.name)), None)
    if chosen is None:
        attends = re.search(r"attn_(v|k|qkv|kv_b)\.weight", tensor.name)
        chosen = "Q8_0" if _is_output(header, tensor) or (header.experts == 8 and attends) else target
    return chosen if tensor.dims[0] % BLOCKS[chosen][0] == 0 else "F16"


def estimated_bytes(header: GgufHeader, target: str, overrides: Overrides = ()) -> int:
    """About how large the file would be; to the alignment of its parts for the types of PLAIN."""
    if target in PLAIN:
        return size_with(header, plain_types(header, target, overrides))
    most, more_bits = _MIXTURES[target]
    sizes = []
    for tensor in header.tensors:
        kind, more = tensor.type, 0.0
        if quantizable(tensor):
            kind, more = most, more_bits
            named = next((kind for pattern, kind in overrides if re.search(pattern, tensor.name)), None)
            if named is not None:
                kind, more = named, 0.0
            elif _is_output(header, tensor):
                kind, more = ("Q5_K" if target in NEED_IMATRIX and target != "Q2_K_S" else "Q6_K"), 0.0
            kind = _fitting(tensor, kind)
        sizes.append(int(_bytes(tensor, kind) + tensor.values * more / 8))
    return header.header_bytes + sum(sizes)


def size_with(header: GgufHeader, types: Mapping[str, str]) -> int:
    """Bytes of the file where the tensors named in `types` have that type, up to the alignment of its parts."""
    sizes = (_bytes(t, types.get(t.name, t.type)) for t in header.tensors)
    return header.header_bytes + sum(-(-int(size) // 32) * 32 for size in sizes)


def _bytes(tensor: Tensor, kind: str) -> float:
    values, size = BLOCKS.get(kind, (1, 0))
    return tensor.values / values * size


def _fitting(tensor: Tensor, kind: str) -> str:
    """The type, or one with smaller blocks where a row does not fill whole ones."""
    for tried in (kind, _FALLBACK.get(kind, "F16")):
        if tensor.dims[0] % BLOCKS[tried][0] == 0:
            return tried
    return "F16"


def _is_output(header: GgufHeader, tensor: Tensor) -> bool:
    tied = all(t.name != _OUTPUT for t in header.tensors)
    return tensor.name == _OUTPUT or (tied and tensor.name in _EMBEDDINGS)
