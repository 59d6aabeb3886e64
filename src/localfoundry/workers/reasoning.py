"""Reasoning told from the answer: `<think>…</think>` at the beginning of what a model writes.

As llama-server does it with `reasoning_format` deepseek: the reasoning goes into `reasoning_content`, white space
around it is dropped. Models whose template opens the thought itself write only its end.
"""

from __future__ import annotations

from localfoundry.workers.text import beginning_at_end

_OPEN, _CLOSE = "<think>", "</think>"


def thinks(template: str) -> bool:
    """Whether a chat template is of a model that reasons in these marks."""
    return _CLOSE in template or _OPEN in template


class Reasoning:
    """Splits text as it comes. `opened`: the prompt ends inside a thought."""

    def __init__(self, prompt: str) -> None:
        opened = prompt.rstrip().endswith(_OPEN)
        self._state = "thinking" if opened else "before"  # before | thinking | after | answering
        self._held = ""
        self._begun = False  # something of the thought has been told

    def feed(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """(reasoning, answer) that are certain; `last`: nothing follows."""
        thought = ""
        self._held += text
        if self._state == "before":
            begun = self._held.lstrip()
            if begun.startswith(_OPEN):
                self._state, self._held = "thinking", begun[len(_OPEN) :]
            elif last or not _OPEN.startswith(begun):
                self._state = "answering"
        if self._state == "thinking":
            thought = self._think(last)
        if self._state == "after":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "answering"
        if self._state != "answering":
            return thought, ""
        answer, self._held = self._held, ""
        return thought, answer

    def _think(self, last: bool) -> str:
        if not self._begun:
            self._held = self._held.lstrip()
        thought, closed, rest = self._held.partition(_CLOSE)
        if closed:
            self._state, self._held = "after", rest
            return thought.rstrip()
        if last:
            self._held = ""
            return thought
        certain = len(thought) - beginning_at_end(thought, _CLOSE)
        certain = len(thought[:certain].rstrip())  # it may stand before the end of the thought, and is dropped there
        self._held = thought[certain:]
        self._begun = self._begun or certain > 0
        return thought[:certain]
