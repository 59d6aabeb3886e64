"""What must not leave this machine is taken out of text: secrets, prompts, names of the person and the machine.

Three nets, because each one alone has holes: values that are known to be secret, wherever they turn up; forms that
secrets have; and lines of a log that hold the text of a request. A false alarm costs a word of a report; so when in
doubt it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

REMOVED = "[removed]"
LEFT_OUT = "[a line that may hold the text of a request was left out]"

_SECRET_NAME = re.compile(
    r"token|secret|passw|credential|api_?key|access_?key|private_?key|cookie|authorization|(^|[_-])(key|auth|pwd|pass)$",
    re.IGNORECASE,
)
_NO_SECRETS = {"PWD", "OLDPWD"}
_SHORTEST = 4  # a known secret that is shorter would take parts of words with it
_PART = 8  # of a secret of several words, such as `Bearer abc…`
_URL_PASSWORD = re.compile(r"(\w[\w+.-]*://)[^/\s\"'<>]*@")
_FORMS = (
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL), REMOVED),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {REMOVED}"),
    (re.compile(r"((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)([\"']?\s*[:=]\s*).*", re.IGNORECASE),
     rf"\1\2{REMOVED}"),
    (re.compile(r"\b(lf_|hf_|sk-|ghp_|gho_|github_pat_|pypi-|xox[abp]-|AKIA)[\w-]{6,}"), REMOVED),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REMOVED),
    (re.compile(r"([?&;][\w.-]*(?:token|sig|signature|key|credential|policy|secret|password|code)[\w.-]*=)[^&\s\"'<>]+",
                re.IGNORECASE), rf"\1{REMOVED}"),
    (re.compile(r"\b([\w.-]*(?:token|secret|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key|credentials?))"
                r"([\"']?\s*[=:]\s*[\"']?)(?![\d.]+\b|\s)[^\s\"',;}]+", re.IGNORECASE), rf"\1\2{REMOVED}"),
)  # fmt: skip
_REQUEST_TEXT = re.compile(
    r"[\"'](messages|prompt|content|input|text|arguments)\\?[\"']\s*:|<\|[\w ]+\|>", re.IGNORECASE
)


class Redactor:
    """Takes out what is secret. `names`: words that stand for a person or machine, and what stands in their place."""

    def __init__(self, secrets: Iterable[str], names: Mapping[str, str]) -> None:
        known = sorted({value for value in secrets if len(value) >= _SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        longest_first = sorted((name for name in names if name), key=len, reverse=True)
        self._names = [
            (re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE), names[name]) for name in longest_first
        ]

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REMOVED, text)
        text = _URL_PASSWORD.sub(rf"\1{REMOVED}@", text)
        for form, word in _FORMS:
            text = form.sub(word, text)
        for name, word in self._names:
            text = name.sub(word, text)
        return text

    def log(self, text: str) -> str:
        """As `text`, and lines that may hold what somebody asked or was answered are left out."""
        return self.text("".join(f"{LEFT_OUT}\n" if _REQUEST_TEXT.search(line) else line
                                 for line in text.splitlines(keepends=True)))  # fmt: skip

    def value(self, value: Any, name: str = "") -> Any:
        """The same for JSON; a string under a name that speaks of a secret goes whole."""
        if isinstance(value, dict):
            return {key: self.value(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, name) for item in value]
        if isinstance(value, str):
            return REMOVED if value and is_secret_name(name) else self.text(value)
        return value


def is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Values of variables whose name speaks of a secret, and names and passwords inside of addresses."""
    found: set[str] = set()
    for name, value in environment.items():
        if is_secret_name(name) and name not in _NO_SECRETS:
            found |= {value.strip(), *(part for part in value.split() if len(part) >= _PART)}
        found |= _in_address(value)
    return found


def _in_address(text: str) -> set[str]:
    try:
        parts = urlsplit(text)
        given = {parts.password or "", unquote(parts.password or "")}
    except ValueError:
        return set()
    return given - {""}
