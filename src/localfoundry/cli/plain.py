"""Text of strangers, made harmless for a terminal: it may not move the cursor, rename the window or hide a line."""

from __future__ import annotations

import re
import unicodedata

# CSI; OSC and the other strings up to their end; short escapes. What is left of a broken one goes with its characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]", re.DOTALL)
# The start of one at the end of a text, or half of a line's end.
_BEGUN = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_](?:(?!\x07|\x1b\\).)*|[ -/]*)|\r)\Z", re.DOTALL)
_LONGEST_HELD = 1000
_KEPT = "\n\t"
_JOINERS = "\u200c\u200d"  # written languages and emoji need them


def plain(text: str) -> str:
    """`text` without control sequences and control characters, and without marks that turn its direction.

    Line feeds and tabs stay. Characters that cannot be printed become `�`, so that nothing disappears unseen.
    """
    return _characters(_ESCAPES.sub("�", text.replace("\r\n", "\n")))


def _characters(text: str) -> str:
    return "".join(one if one in _KEPT or one in _JOINERS or not _unseen(one) else "�" for one in text)


def _unseen(character: str) -> bool:
    # Cc control, Cf format (bidirectional marks, zero width, tags), Cs surrogate, Zl and Zp line and paragraph breaks.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


class PlainStream:
    """The same for text that arrives in pieces: a sequence that is cut in two is held back until the rest is there.

    One that does not end within `_LONGEST_HELD` characters is given out without its control characters.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """As much as can be shown by now."""
        text = self._held + piece
        begun = _BEGUN.search(text)
        cut = begun.start() if begun else len(text)
        self._held = text[cut:]
        if len(self._held) > _LONGEST_HELD:
            text, cut, self._held = text[:cut] + _characters(text[cut:]), len(text), ""
        return plain(text[:cut])

    def end(self) -> str:
        """What was held back; nothing more comes."""
        rest, self._held = self._held, ""
        return plain(rest)
