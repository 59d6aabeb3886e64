"""Any model that could be, and any way to load it, for tests of what must hold for all of them."""

from __future__ import annotations

from hypothesis import strategies as st

from localfoundry.fit import Load
from localfoundry.fit.memory import CACHE_BYTES
from localfoundry.formats.shape import LayerKind, ModelShape, WeightGroup

_counts = st.integers(1, 64)


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    heads = draw(st.integers(1, 64))
    head_dim = draw(st.sampled_from((32, 64, 96, 128, 256)))
    kv_heads = draw(st.integers(1, heads))
    kept = kv_heads * head_dim
    weights = draw(st.integers(10**6, 10**11))
    return ModelShape(
        architecture="llama",
        layers=(
            LayerKind(draw(_counts), kept, kept),
            LayerKind(draw(st.integers(0, 64)), kept, kept, windowed=True, state=draw(st.integers(0, 10**5))),
        ),
        hidden=draw(st.integers(64, 16384)),
        ffn=draw(st.integers(0, 65536)),
        heads=heads,
        head_dim=head_dim,
        kv_heads=kv_heads,
        vocabulary=draw(st.integers(100, 300_000)),
        weights=(WeightGroup(draw(st.sampled_from(("Q4_K", "Q8_0", "F16"))), True, weights, 0, weights),),
        window=draw(st.sampled_from((0, 128, 512, 4096))),
        experts=draw(st.sampled_from((0, 8))),
        experts_used=2,
        expert_ffn=draw(st.integers(1, 8192)),
        active_bytes=weights,
        active_parameters=2 * weights,
    )


demands = st.builds(
    Load,
    context=st.integers(1, 200_000),
    parallel=st.integers(1, 64),
    cache_keys=st.sampled_from(sorted(CACHE_BYTES)),
    cache_values=st.sampled_from(sorted(CACHE_BYTES)),
    flash_attention=st.booleans(),
    embeddings=st.booleans(),
)
