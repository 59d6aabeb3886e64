"""A reference of a model that none is shipped for: computed from its own weights by `transformers`, in a child.

Shorter than the shipped ones (four chunks of text, six answers), since it is waited for. It is kept in the home under
the sum of what it was computed from, where `foundry eval --fidelity` finds it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from localfoundry.build import child
from localfoundry.build.toolchain import Toolchain
from localfoundry.config import Settings
from localfoundry.errors import BadReference, BuildFailed
from localfoundry.quality import reference
from localfoundry.quality.reference import Continuation, Packed, Reference

TEXTS = Path(__file__).parent / "fidelity_text"
QUESTIONS = (
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
_SHORT = {
    "texts": [["english.txt", 3], ["danish.txt", 1]],
    "length": 512,
    "top": 64,
    "questions": QUESTIONS[:6],
    "answer_tokens": 32,
}
_ARRAYS = ("ids", "logprobs", "tail", "target")
_BASE_BYTES = 1_000_000_000  # torch, and the logits of a chunk


class _Said(msgspec.Struct):
    """What the child writes beside the arrays."""

    tokenizer_sha256: str
    made_with: dict[str, str]
    chunks: tuple[tuple[int, ...], ...]
    first: int
    top: int
    greedy: tuple[Continuation, ...]


def folder(settings: Settings) -> Path:
    """Where references that were computed here are kept."""
    return settings.home / "references"


def known(settings: Settings, sums: set[str]) -> Reference | None:
    """The reference, shipped or computed here before, of a model that has a file with one of these sums."""
    for path in (*reference.shipped(), *sorted(folder(settings).glob("*.reference"))):
        try:
            found = reference.read(path)
        except BadReference:
            continue  # one that was cut short while it was kept; it is computed again
        if sums.intersection(found.packed.source_sha256):
            return found
    return None


def compute(
    settings: Settings, tools: Toolchain, source: Path, sha256: str, name: str, parameters: int, free_bytes: int | None,
    *, work: Path, log: Path, line: Callable[[str], None],
) -> Reference:  # fmt: skip
    """Compute the reference of the Hugging Face folder `source` and keep it. Blocking: half a minute for 135 M.

    In float32 where memory has the room, else in the weights' own type. Raises BuildFailed.
    """
    own_type = free_bytes is not None and _BASE_BYTES + 4 * parameters > free_bytes
    out, private = work / "reference", work / "reference.tmp"
    for each in (out, private):
        child.discard(each)
        each.mkdir()
    options = msgspec.json.encode(_SHORT | {"own_type": own_type}).decode()
    command = tools.script("compile_reference", str(source), str(TEXTS), str(out), options)
    child.run(command, log, "transformers", line, private=private)
    packed = _packed(out, sha256, name)
    target = folder(settings) / f"{sha256[:32]}.reference"
    target.parent.mkdir(parents=True, exist_ok=True)
    reference.write(target, packed)
    for each in (out, private):
        child.discard(each)
    return reference.read(target)


def _packed(out: Path, sha256: str, name: str) -> Packed:
    try:
        said = msgspec.json.decode((out / "reference.json").read_bytes(), type=_Said)
        arrays = {array: (out / array).read_bytes() for array in _ARRAYS}
    except (OSError, msgspec.MsgspecError) as exc:
        raise BuildFailed(f"transformers ended well and left no reference: {exc}") from exc
    return Packed(
        source_sha256=(sha256,), tokenizer_sha256=said.tokenizer_sha256, model=name, made_with=said.made_with,
        chunks=said.chunks, first=said.first, top=said.top, greedy=said.greedy, **arrays,
    )  # fmt: skip
