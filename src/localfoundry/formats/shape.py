"""What memory and speed of a model depend on, as its header states it: layers, what each keeps of a token, weights.

Values only, small enough to be kept beside a version, and the same from a file and from its header read afar. How
llama.cpp lays an architecture out where the header is silent (which layers have the window, which have a state) is
written down here, from its `src/models` and `src/llama-hparams.cpp`. Arithmetic with it is in `fit/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from localfoundry.errors import NotAModel
from localfoundry.formats.gguf import GgufHeader, Tensor

MAX_LAYERS = 4096
MAX_WIDTH = 2**26  # values of one token in one layer; the widest models have some ten thousands
MAX_STATE = 2**32  # values of one sequence's state in one layer
MAX_CONTEXT = 2**32  # tokens
_ROWS = 8  # rows that an engine interleaves when it rearranges a tensor for its kernels
_LOOKED_UP = ("token_embd.", "per_layer_token_embd.", "position_embd.")  # rows are read, nothing is multiplied
# Every layer but each nth has the window, where the header has a window and no pattern. 1: the engine uses none.
_WINDOW_PERIOD = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma4": 6, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4,
    "llama4": 4, "plamo3": 8, "afmoe": 4, "phi3": 1, "llama": 1, "qwen2": 1, "qwen3": 1, "qwen2moe": 1, "starcoder2": 1,
}  # fmt: skip
_ENCODERS = frozenset({
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
    "t5encoder", "gemma-embedding",
})  # fmt: skip


class LayerKind(msgspec.Struct, frozen=True, omit_defaults=True):
    """Layers that keep the same: values per token as keys and as values, and a state per sequence in f32 values.

    `windowed`: only of the tokens in the model's window.
    """

    count: int
    keys: int = 0
    values: int = 0
    windowed: bool = False
    state: int = 0


class WeightGroup(msgspec.Struct, frozen=True):
    """Tensors of one type, and where in the data section they begin and end.

    `multiplied`: matrices that an engine may rearrange for its kernels; the others are looked up or too small.
    """

    type: str
    multiplied: bool
    size_bytes: int
    begin: int
    end: int


class ModelShape(msgspec.Struct, frozen=True, omit_defaults=True):
    """Dimensions of a model as an engine computes with them. `exact` False: deduced from a catalog, not from a header.

    `expert_ffn` is of one expert; `latent` the rank of compressed keys and values; `convolution` a short convolution
    in some layers. `token_bytes` are the vocabulary's texts. `active_bytes`: weights that one token passes through.
    """

    architecture: str
    layers: tuple[LayerKind, ...]
    hidden: int
    ffn: int
    heads: int
    head_dim: int
    kv_heads: int
    vocabulary: int
    weights: tuple[WeightGroup, ...]
    embedding_bytes: int = 0
    output_bytes: int = 0  # of the head; 0 where it is the embedding
    output_type: str | None = None
    active_bytes: int = 0
    active_parameters: int = 0
    context_length: int | None = None
    window: int = 0  # tokens
    gated: bool = True
    fused: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    latent: int = 0
    rope_dim: int = 0
    convolution: bool = False
    encoder: bool = False
    tokens: int = 0
    token_bytes: int = 0
    merges: int = 0
    quantization: str | None = None
    certain: bool = True  # False: the architecture leaves open what its layers keep
    exact: bool = True
    sized: bool = True  # False: no file is known, and the weights' size is an assumption

    @property
    def depth(self) -> int:
        return sum(kind.count for kind in self.layers)

    @property
    def weight_bytes(self) -> int:
        return sum(group.size_bytes for group in self.weights)


def of_gguf(header: GgufHeader) -> ModelShape | None:
    """The shape that a header states; None where it is no decoder or encoder of text, or lacks a dimension.

    Raises NotAModel for dimensions that contradict each other.
    """
    needed = (header.layers, header.hidden_size, header.attention_heads, header.vocab_size)
    if header.kind != "model" or header.weight_bytes is None:
        return None
    check(header)
    if not all(needed):
        return None
    layers, hidden, heads, vocabulary = (number or 0 for number in needed)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    kept, certain = _layers(header, layers - min(header.nextn_layers, layers))
    output = tensors.get("output.weight")
    return ModelShape(
        architecture=header.architecture,
        layers=kept,
        hidden=hidden,
        ffn=header.ffn_size or 0,
        heads=heads,
        head_dim=header.head_dim or 0,
        kv_heads=header.kv_heads or 0,
        vocabulary=vocabulary,
        weights=_groups(header.tensors),
        embedding_bytes=_size(tensors.get("token_embd.weight")),
        output_bytes=_size(output),
        output_type=(output or tensors.get("token_embd.weight") or _NO_TENSOR).type,
        active_bytes=_active(header, lambda tensor: tensor.size_bytes or 0),
        active_parameters=_active(header, lambda tensor: tensor.values),
        context_length=header.context_length,
        window=header.sliding_window or 0,
        gated=_gated(header, tensors),
        fused="blk.0.attn_qkv.weight" in tensors,
        experts=header.experts or 0,
        experts_used=header.experts_used or 0,
        expert_ffn=header.expert_ffn_size or 0,
        latent=header.kv_lora_rank or 0,
        rope_dim=header.rope_dim or 0,
        convolution=bool(header.convolution),
        encoder=header.architecture in _ENCODERS,
        tokens=header.tokens.count if header.tokens else 0,
        token_bytes=header.tokens.size_bytes if header.tokens else 0,
        merges=header.merges or 0,
        quantization=header.quantization,
        certain=certain,
    )


def check(header: GgufHeader) -> None:
    """Raise NotAModel for what no model can be: such a header would give a figure with nothing behind it."""
    limits = (
        ("layers", header.layers, MAX_LAYERS), ("embedding length", header.hidden_size, MAX_WIDTH),
        ("feed-forward length", header.ffn_size, MAX_WIDTH), ("vocabulary", header.vocab_size, MAX_WIDTH),
        ("attention heads", header.attention_heads, MAX_WIDTH), ("head size", header.head_dim, MAX_WIDTH),
        ("value size", header.value_head_dim, MAX_WIDTH), ("experts", header.experts, MAX_LAYERS),
        ("expert feed-forward length", header.expert_ffn_size, MAX_WIDTH),
        ("rank of keys and values", header.kv_lora_rank, MAX_WIDTH), ("rope dimensions", header.rope_dim, MAX_WIDTH),
        ("convolution length", header.convolution, MAX_LAYERS), ("state values", _state(header), MAX_STATE),
        ("context length", header.context_length, MAX_CONTEXT),
    )  # fmt: skip
    for what, number, limit in limits:
        if number is not None and number > limit:
            raise NotAModel(f"GGUF header with an impossible shape: {number:,} {what}, more than {limit:,}")
    for what, number in _never_none(header):
        if number is not None and number < 1:
            raise NotAModel(f"GGUF header with an impossible shape: {number} {what}, less than 1")
    heads, kv_heads = header.attention_heads, header.kv_heads
    if heads and kv_heads and kv_heads > heads:
        raise NotAModel(f"GGUF header with an impossible shape: {kv_heads} key-value heads for {heads} attention heads")
    if header.experts and header.experts_used and header.experts_used > header.experts:
        raise NotAModel(
            f"GGUF header with an impossible shape: {header.experts_used} of {header.experts} experts are used"
        )
    per_layer = header.kv_heads_per_layer
    if per_layer and len(per_layer) < (header.layers or 0):
        raise NotAModel(
            f"GGUF header with an impossible shape: key-value heads of {len(per_layer)} layers, it has {header.layers}"
        )


def _never_none(header: GgufHeader) -> tuple[tuple[str, int | None], ...]:
    """Counts of which a model that says them has at least one; of attention heads a recurrent one has none."""
    return (
        ("layers", header.layers), ("embedding length", header.hidden_size), ("vocabulary", header.vocab_size),
        ("head size", header.head_dim),
    )  # fmt: skip


_NO_TENSOR = Tensor("", (), "unknown", 0, 0)


def _size(tensor: Tensor | None) -> int:
    return (tensor.size_bytes or 0) if tensor else 0


def _groups(tensors: Iterable[Tensor]) -> tuple[WeightGroup, ...]:
    """Tensors by type and use. Types nobody knows have no size, and `of_gguf` does not come here with them."""
    found: dict[tuple[str, bool], WeightGroup] = {}
    for tensor in tensors:
        size = tensor.size_bytes or 0
        key = tensor.type, _is_multiplied(tensor)
        group = found.get(key) or WeightGroup(*key, 0, tensor.offset, 0)
        found[key] = WeightGroup(
            *key, group.size_bytes + size, min(group.begin, tensor.offset), max(group.end, tensor.offset + size)
        )
    return tuple(found[key] for key in sorted(found))


def _is_multiplied(tensor: Tensor) -> bool:
    if tensor.name.startswith(_LOOKED_UP) or len(tensor.dims) < 2 or tensor.dims[1] % _ROWS:
        return False
    return len(tensor.dims) == 2 or (len(tensor.dims) == 3 and "_exps." in tensor.name)


def _active(header: GgufHeader, measure: Callable[[Tensor], int]) -> int:
    """Of all tensors what one token passes through: all but the other experts and rows of the embedding."""
    share = (header.experts_used or 1) / (header.experts or 1)
    tied = header.tied_embeddings
    total = 0.0
    for tensor in header.tensors:
        if tensor.name.startswith(_LOOKED_UP) and not (tied and tensor.name == "token_embd.weight"):
            continue
        total += measure(tensor) * (share if "_exps." in tensor.name else 1)
    return int(total)


def _gated(header: GgufHeader, tensors: dict[str, Tensor]) -> bool:
    """Whether the feed-forward network has a gate, in a tensor of its own or fused with the other one."""
    last = (header.layers or 1) - 1
    for layer in (0, last):
        if any(f"blk.{layer}.ffn_gate{kind}.weight" in tensors for kind in ("", "_exps", "_up_exps")):
            return True
    up = tensors.get("blk.0.ffn_up.weight")
    return up is None or up.dims[1] == 2 * (header.ffn_size or 0)


def _layers(header: GgufHeader, count: int) -> tuple[tuple[LayerKind, ...], bool]:
    """What each layer keeps, and whether that is certain: a window without a pattern that is known is not."""
    windowed, certain = _windowed(header, count)
    state = _state(header)
    key_dim, value_dim = header.head_dim or 0, header.value_head_dim or 0
    if header.kv_lora_rank and header.key_length_mla:
        value_dim = 0  # the values are part of the compressed keys
    shared_from = count - min(header.shared_kv_layers, count)
    kinds: Counter[tuple[int, int, bool, int]] = Counter()
    for n in range(count):
        heads = header.kv_heads_per_layer[n] if header.kv_heads_per_layer else (header.kv_heads or 0)
        recurrent = _is_recurrent(header, n, heads, state)
        if (recurrent and header.architecture != "falcon-h1") or header.architecture in _ENCODERS or n >= shared_from:
            heads = 0
        kinds[heads * key_dim, heads * value_dim, windowed[n] and heads > 0, state if recurrent else 0] += 1
    return tuple(LayerKind(number, *kind) for kind, number in kinds.items()), certain


def _windowed(header: GgufHeader, count: int) -> tuple[list[bool], bool]:
    if not header.sliding_window:
        return [False] * count, True
    if header.sliding_window_layers:
        pattern = header.sliding_window_layers
        return [pattern[n % len(pattern)] for n in range(count)], True
    known = _WINDOW_PERIOD.get(header.architecture)
    period = header.sliding_window_period or known
    if known == 1 or period is None:
        return [False] * count, known == 1
    return [period == 0 or n % period < period - 1 for n in range(count)], True


def _is_recurrent(header: GgufHeader, layer: int, kv_heads: int, state: int) -> bool:
    if not state:
        return False
    if header.full_attention_interval:
        return (layer + 1) % header.full_attention_interval != 0
    if header.kv_heads_per_layer:
        return kv_heads == 0
    return True


def _state(header: GgufHeader) -> int:
    """Values of one sequence's state in a layer. `llama_hparams::n_embd_r` and `n_embd_s`."""
    hidden = header.hidden_size or 0
    if header.wkv_head_size:
        return hidden * (header.token_shift or 2) + hidden * header.wkv_head_size
    if header.convolution:
        return hidden * (header.convolution - 1)
    if not header.ssm_inner_size:
        return 0
    groups = 2 * (header.ssm_groups or 0) * (header.ssm_state_size or 0)
    past = max((header.ssm_conv_kernel or 1) - 1, 0)
    return past * (header.ssm_inner_size + groups) + (header.ssm_state_size or 0) * header.ssm_inner_size
