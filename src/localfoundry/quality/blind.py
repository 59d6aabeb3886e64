"""Takes the names of models out of their answers, so that "I am Qwen" does not end a blind comparison. Pure.

Masked are the names under comparison, their families with any version (`Qwen2.5`), and names of families and makers
where a model introduces itself. Both answers are treated alike. Trade-off: the word "llama" goes from every answer
while a Llama is compared, a family of up to three letters is masked only with a number behind it, and a model can
still be known by its style.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[a model]"
_SHORT = 3
_KNOWN = (
    "Alibaba", "Anthropic", "ChatGPT", "Claude", "DeepSeek", "Falcon", "Gemini", "Gemma", "Google DeepMind", "Google",
    "GPT", "Granite", "HuggingFace", "Hugging Face", "Llama", "Meta", "Microsoft", "Mistral", "Mixtral", "OLMo",
    "OpenAI", "Phi", "Qwen", "SmolLM",
)  # fmt: skip
_INTRODUCTION = re.compile(
    r"\b((?:I am|I'm|I’m|my name is|(?:created|made|developed|trained|built) by|jeg er|jeg hedder|mit navn er|"
    rf"(?:udviklet|lavet|trænet|skabt) af)\s+(?:(?:an?|the|en|et)\s+)?)(?:{'|'.join(_KNOWN)})\b(?:[\w.-]*\w)?",
    re.IGNORECASE,
)


def blind(text: str, names: Iterable[str]) -> str:
    """`text` without `names`, their families, and what a model introduces itself or its maker as."""
    wanted = sorted({name for name in names if name}, key=len, reverse=True)
    for name in wanted:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, text, flags=re.IGNORECASE)
    for family in sorted({found for name in wanted if (found := _family(name))}, key=len, reverse=True):
        version = r"[-\s]?\d(?:[\w.-]*\w)?" if len(family) <= _SHORT else r"(?:[\w.-]*\w)?"
        text = re.sub(rf"\b{family}{version}", MASK, text, flags=re.IGNORECASE)
    return _INTRODUCTION.sub(rf"\1{MASK}", text)


def _family(name: str) -> str | None:
    """`qwen` of `qwen2.5-7b`; None for a name that is one word and so was masked as it is."""
    last = name.rsplit("/", 1)[-1].split(":", 1)[0]
    found = re.match(r"[A-Za-z]{2,}(?=[-_.\d])", last)
    return found[0] if found else None
