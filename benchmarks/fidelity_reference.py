"""Make a reference for `foundry eval --fidelity`: what a model's own weights in float32 say over a fixed text.

    python -m venv /tmp/ref && /tmp/ref/bin/pip install torch transformers accelerate gguf sentencepiece msgspec
    PYTHONPATH=src /tmp/ref/bin/python benchmarks/fidelity_reference.py MODEL.gguf OUT.reference
        [--same SHA256]... [--top 64] [--length 512] [--threads N]

The weights of the GGUF are dequantized to float32 by `transformers`; where the file is a quantization of other weights
that one can have, name a folder of those instead. The text is `quality/fidelity_text/` of the package: prose about this
product, nine chunks of 512 tokens in English and three in Danish, ours and under its licence. The second half of each
chunk is scored. Greedy answers follow twelve questions in the model's own chat template. Takes three minutes on two
cores for 135 M parameters, and memory for the float32 weights.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers

from localfoundry.quality.own_reference import QUESTIONS, TEXTS
from localfoundry.quality.reference import Continuation, Packed, write
from localfoundry.workers import compile_reference as words

_CHUNKS = {"english.txt": 9, "danish.txt": 3}
_ANSWER_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file, or a Hugging Face folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--same", action="append", default=[], help="SHA-256 of another file with the same weights")
    parser.add_argument("--top", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = _load(given.model)
    chunks = [c for name, count in _CHUNKS.items() for c in words.chunks(tokenizer, TEXTS / name, count, given.length)]
    first = given.length // 2
    with torch.no_grad():
        arrays = words.score(model, chunks, first, given.top)
        answers = [words.greedy(model, tokenizer, question, _ANSWER_TOKENS) for question in QUESTIONS]
    own = [_sha256(given.model)] if given.model.is_file() else []
    packed = Packed(
        source_sha256=tuple(own + given.same),
        tokenizer_sha256=words.tokenizer_sha256(tokenizer, model.config.vocab_size),
        model=given.model.stem,
        made_with={"torch": str(torch.__version__), "transformers": transformers.__version__},
        chunks=tuple(map(tuple, chunks)),
        first=first,
        top=given.top,
        **arrays,
        greedy=tuple(msgspec.convert(answer, Continuation) for answer in answers),
    )
    write(given.out, packed)
    values = struct.unpack(f"<{len(packed.target) // 4}f", packed.target)
    perplexity = torch.tensor(values, dtype=torch.float64).mean().neg().exp().item()
    print(f"{given.out}: {given.out.stat().st_size:,} bytes, {len(values)} positions, perplexity {perplexity:.4f}")


def _load(path: Path) -> tuple[Any, Any]:
    folder, file = (path.parent, path.name) if path.is_file() else (path, None)
    extra = {"gguf_file": file} if file else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **extra)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **extra)
    return model.eval(), tokenizer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
