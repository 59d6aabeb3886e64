"""Text of strangers, made harmless for a terminal: it may not move the cursor, rename the window or hide a line."""

from __future__ import annotations

import re
import unicodedata

# CSI; OSC and the other strings up to their end; short escapes. What is left of a broken one goes with its characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]", re.DOTALL)
_KEPT = "\n\t"
_JOINERS = "\u200c\u200d"  # written languages and emoji need them


def plain(text: str) -> str:
    """`text` without control sequences and control characters, and without marks that turn its direction.

    Line feeds and tabs stay. Characters that cannot be printed become `�`, so that nothing disappears unseen.
    """
    without = _ESCAPES.sub("�", text.replace("\r\n", "\n"))
    return "".join(one if one in _KEPT or one in _JOINERS or not _unseen(one) else "�" for one in without)


def _unseen(character: str) -> bool:
    # Cc control, Cf format (bidirectional marks, zero width, tags), Cs surrogate, Zl and Zp line and paragraph breaks.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
