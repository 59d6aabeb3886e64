"""What a Hugging Face folder's own weights say over a fixed text: `compile_reference.py FOLDER TEXTS OUT OPTIONS`.

TEXTS is a folder of text files; OPTIONS is JSON: `texts` (name and number of chunks of each), `length` of a chunk in
tokens, `top`, `questions`, `answer_tokens`. OUT is filled with `reference.json` and the arrays `ids`, `logprobs`,
`tail` and `target` as they are in the form of `quality/reference.py`, which packs them. The second half of each chunk
is scored. Weights are taken in float32, or in their own type where OPTIONS says `own_type`.

Nothing of this product is imported: see `compile_child.py`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    import torch
    import transformers

    folder, texts, out = (Path(word) for word in arguments[:3])
    options = json.loads(arguments[3])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dtype = "auto" if options["own_type"] else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()
    scored = [c for name, count in options["texts"] for c in chunks(tokenizer, texts / name, count, options["length"])]
    first = options["length"] // 2
    with torch.no_grad():
        arrays = score(model, scored, first, options["top"])
        answers = [greedy(model, tokenizer, question, options["answer_tokens"]) for question in options["questions"]]
    for name, data in arrays.items():
        (out / name).write_bytes(data)
    document = {
        "tokenizer_sha256": tokenizer_sha256(tokenizer, model.config.get_text_config().vocab_size),
        "made_with": {"torch": str(torch.__version__), "transformers": transformers.__version__,
                      "weights": str(model.dtype).removeprefix("torch.")},
        "chunks": scored,
        "first": first,
        "top": options["top"],
        "greedy": [found for found in answers if found["tokens"]],
    }  # fmt: skip
    (out / "reference.json").write_text(json.dumps(document), encoding="utf-8")


def chunks(tokenizer: Any, text: Path, count: int, length: int) -> list[list[int]]:
    """As many as the text holds, at most `count`: a tokenizer of few tokens for many letters gives fewer."""
    ids = tokenizer(text.read_text("utf-8"), add_special_tokens=False).input_ids
    whole = min(count, len(ids) // length)
    return [ids[n * length : (n + 1) * length] for n in range(whole)]


def score(model: Any, chunks: list[list[int]], first: int, top: int) -> dict[str, bytes]:
    """The arrays. The distribution at index i - 1 is that of token i."""
    import torch

    ids, logprobs, tail, target = bytearray(), bytearray(), bytearray(), bytearray()
    for number, chunk in enumerate(chunks):
        print(f"scoring chunk {number + 1} of {len(chunks)}", flush=True)
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


def greedy(model: Any, tokenizer: Any, question: str, length: int) -> dict[str, Any]:
    """What follows a question when the likeliest token is taken each time; the question alone without a template."""
    import torch

    text = question
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    made = model.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False)[0, len(prompt) :]
    tokens = [t for t in made.tolist() if t != tokenizer.eos_token_id]
    return {
        "prompt": prompt,
        "tokens": tokens,
        "text": [tokenizer.decode(tokens[: n + 1]) for n in range(len(tokens))],
    }


def tokenizer_sha256(tokenizer: Any, count: int) -> str:
    tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
    return hashlib.sha256(b"".join((t or "").encode() + b"\0" for t in tokens)).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
