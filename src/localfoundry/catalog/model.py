"""What a model is: an alias, the facts known of it, and the variants that can be had.

Values only; nothing here touches disk or network. A fact that is not known is None and is printed as `unknown`:
this file never fills a gap.
"""

from __future__ import annotations

import msgspec


class Architecture(msgspec.Struct, frozen=True, omit_defaults=True):
    """Shape of a decoder with grouped-query attention and a gated feed-forward network, from the published config."""

    layers: int
    hidden_size: int
    ffn_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    context_length: int

    def parameters(self) -> int:
        """Parameter count that follows from the shape: attention, gated feed-forward, norms, embeddings, head."""
        attention = self.attention_heads * self.head_dim
        kv = self.kv_heads * self.head_dim
        per_layer = self.hidden_size * attention * 2 + 2 * self.hidden_size * kv
        per_layer += 3 * self.hidden_size * self.ffn_size + 2 * self.hidden_size
        per_layer += (attention + 2 * kv) if self.qkv_bias else 0
        per_layer += 2 * self.head_dim if self.qk_norm else 0
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * per_layer + embeddings + self.hidden_size

    def kv_cache_bytes(self, context: int, bytes_per_value: float = 2.0) -> int:
        """Keys and values of `context` tokens: 2 * layers * kv_heads * head_dim * context * bytes_per_value."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * context * bytes_per_value)


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One downloadable form of a model: a file format, a quantization, a device.

    `name` has no colon and no slash, so that `name:version` can stand in a URL path. `source` is a reference that
    `sources.resolve` understands; None where the place is not public.
    """

    name: str
    version: int
    format: str  # "gguf", "onnx"
    source: str | None = None
    quantization: str | None = None
    device: str = "CPU"
    execution_provider: str = "CPUExecutionProvider"
    size_bytes: int | None = None
    sha256: str | None = None
    license: str | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}:{self.version}"


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alias and everything known about what it stands for. `names` are other spellings that resolve to it."""

    alias: str
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    source_repo: str | None = None
    publisher: str | None = None
    license: str | None = None
    parameters: int | None = None
    architecture: Architecture | None = None
    names: tuple[str, ...] = ()

    @property
    def context_length(self) -> int | None:
        if self.architecture is not None:
            return self.architecture.context_length
        return next((v.context_length for v in self.variants if v.context_length), None)
