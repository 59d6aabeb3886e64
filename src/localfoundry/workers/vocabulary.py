"""A model's tokens as bytes, and which of them are never shown or end an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from localfoundry.workers.generation import Vocabulary

# Texts of tokens that end a turn in the families there are: a model's header often names only one of several.
_ENDS = frozenset({
    b"<|im_end|>", b"<|eot_id|>", b"<|eom_id|>", b"<|end|>", b"<|endoftext|>", b"<end_of_turn>", b"<|end_of_text|>",
    b"<|end_of_turn|>", b"<|return|>", b"<|call|>", b"<EOT>", b"<_EOT>", b"<|EOT|>", b"</s>", b"<eos>",
    "<｜end▁of▁sentence｜>".encode(),
})  # fmt: skip
_MARK = re.compile(rb"[<\[\xef].*[>\]\x9c]", re.DOTALL)  # what a control token may look like


def of_entries(
    entries: Mapping[int, bytes], *, hidden: Callable[[int], bool], ends: Collection[int], bos: str = "", eos: str = ""
) -> Vocabulary:
    """From bytes by token. `hidden` is asked for tokens that look like marks: whether the library leaves them out."""
    pieces = [b""] * (max(entries, default=-1) + 1)
    found = set(ends) & entries.keys()
    for token, piece in entries.items():
        pieces[token] = piece
        if _MARK.fullmatch(piece) and len(piece) > 2 and hidden(token):
            pieces[token] = b""
            if piece in _ENDS:
                found.add(token)
    for token in found:
        pieces[token] = b""
    return Vocabulary(pieces, frozenset(found), bos, eos)
