"""Make a reference for `foundry eval --fidelity`: what a model's own weights in float32 say over a fixed text.

    python -m venv /tmp/ref && /tmp/ref/bin/pip install torch transformers accelerate gguf sentencepiece msgspec
    PYTHONPATH=src /tmp/ref/bin/python benchmarks/fidelity_reference.py MODEL.gguf OUT.reference
        [--same SHA256]... [--top 64] [--length 512] [--threads N]

The weights of the GGUF are dequantized to float32 by `transformers`; where the file is a quantization of other weights
that one can have, name a folder of those instead. The text is `fidelity_text/`: prose about this product, nine chunks
of 512 tokens in English and three in Danish, ours and under its licence. The second half of each chunk is scored.
Greedy answers follow twelve questions in the model's own chat template. Takes three minutes on two cores for 135 M
parameters, and memory for the float32 weights.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
from pathlib import Path
from typing import Any

import torch
import transformers

from localfoundry.quality.reference import Continuation, Packed, write

_TEXT = Path(__file__).parent / "fidelity_text"
_CHUNKS = {"english": 9, "danish": 3}
_QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences why the sky is blue.",
    "List three fruits that grow on trees.",
    "Translate to French: The library opens at nine.",
    "A train leaves at 14:10 and arrives at 15:45. How long is the journey?",
    "Summarize: Bees visit flowers to collect nectar, and carry pollen from one flower to the next.",
    "Give me a short recipe for pancakes.",
    "What is the difference between a list and a tuple in Python?",
    "Write a polite e-mail that asks for a day off.",
    "Hvad er hovedstaden i Danmark?",
    "Skriv en kort hilsen til en ven, der fylder år.",
)
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
    chunks = [c for name, count in _CHUNKS.items() for c in _chunks(tokenizer, name, count, given.length)]
    first = given.length // 2
    arrays = _score(model, chunks, first, given.top)
    own = [_sha256(given.model)] if given.model.is_file() else []
    packed = Packed(
        source_sha256=tuple(own + given.same),
        tokenizer_sha256=_tokenizer_sha256(tokenizer, model.config.vocab_size),
        model=given.model.stem,
        made_with={"torch": str(torch.__version__), "transformers": transformers.__version__},
        chunks=tuple(map(tuple, chunks)),
        first=first,
        top=given.top,
        **arrays,
        greedy=tuple(_greedy(model, tokenizer, question) for question in _QUESTIONS),
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


def _chunks(tokenizer: Any, name: str, count: int, length: int) -> list[list[int]]:
    ids = tokenizer((_TEXT / f"{name}.txt").read_text("utf-8"), add_special_tokens=False).input_ids
    if len(ids) < count * length:
        raise SystemExit(f"{name}.txt is {len(ids)} tokens, and {count * length} are needed")
    return [ids[n * length : (n + 1) * length] for n in range(count)]


@torch.no_grad()
def _score(model: Any, chunks: list[list[int]], first: int, top: int) -> dict[str, bytes]:
    """The arrays of `Packed`. The distribution at index i - 1 is that of token i."""
    ids, logprobs, tail, target = bytearray(), bytearray(), bytearray(), bytearray()
    for chunk in chunks:
        tokens = torch.tensor([chunk])
        logits = model(tokens).logits[0, first - 1 : len(chunk) - 1].double()
        each = torch.log_softmax(logits, dim=-1)
        best = each.topk(top, dim=-1)
        rest = (1 - best.values.exp().sum(-1)).clamp_min(0)
        follows = each.gather(1, tokens[0, first:, None])[:, 0]
        ids += best.indices.to(torch.int32).numpy().astype("<u4").tobytes()
        logprobs += best.values.to(torch.float16).numpy().astype("<f2").tobytes()
        tail += rest.float().numpy().astype("<f4").tobytes()
        target += follows.float().numpy().astype("<f4").tobytes()
    return {"ids": bytes(ids), "logprobs": bytes(logprobs), "tail": bytes(tail), "target": bytes(target)}


@torch.no_grad()
def _greedy(model: Any, tokenizer: Any, question: str) -> Continuation:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    made = model.generate(torch.tensor([prompt]), max_new_tokens=_ANSWER_TOKENS, do_sample=False)[0, len(prompt) :]
    tokens = [t for t in made.tolist() if t != tokenizer.eos_token_id]
    texts = tuple(tokenizer.decode(tokens[: n + 1]) for n in range(len(tokens)))
    return Continuation(tuple(prompt), tuple(tokens), texts)


def _tokenizer_sha256(tokenizer: Any, count: int) -> str:
    tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
    return hashlib.sha256(b"".join((t or "").encode() + b"\0" for t in tokens)).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
