"""Secrets and paths of a machine in a document: found in what comes in, taken out of what goes out.

By their forms, as there is no list of them: keys of known services, `Bearer`, private keys, passwords in addresses,
absolute paths of Unix and Windows, home folders. Trade-off: a secret without a form of its own is not found; nothing
that could be one has a field in the document.
"""

from __future__ import annotations

import re
from typing import Any

from localfoundry.wording import without_paths

_SECRET = re.compile(
    r"\b(?:lf_|sk-|sk_|pk_|rk_|hf_|xox[abprs]-|gsk_|glpat-|gh[opsur]_|github_pat_|AIza)[A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?i:\bbearer\s+[A-Za-z0-9._~+/-]{8,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b[a-z][a-z0-9+.-]*://[^\s/@]+@"
    r"|(?i:\b(?:api[_-]?key|password|passwd|secret|token)\s*[=:]\s*\S{6,})"
)
_PATH = re.compile(
    r"(?<![\w/.…:-])(?:file:)?/+(?:home|Users|root|tmp|var|etc|opt|usr|mnt|media|srv|private|Volumes|data|work|proc|run)"
    r"(?:/|(?![\w.-]))"
    r"|(?<!\w)~[\w.-]*/"
    r"|(?<![A-Za-z0-9])[A-Za-z]:[\\/]"
    r"|\\\\[\w.$-]+\\"
    r"|(?i:\bfile:/)"
)
REMOVED = "…"
_MOST_PATHS = 100  # in one text


def first(document: Any) -> str | None:
    """Where a secret or a path is in a document of plain JSON values, in words; the thing itself is not repeated."""
    left: list[tuple[str, Any]] = [("", document)]
    while left:
        place, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{place}.{key}".lstrip("."), inner) for key, inner in value.items()]
            left += [(f"a key of {place or 'the document'}", key) for key in value]
        elif isinstance(value, list | tuple):
            left += [(f"{place}[{number}]", inner) for number, inner in enumerate(value) if not _number(inner)]
        elif isinstance(value, str):
            if _SECRET.search(value):
                return f"{place} looks like it holds a secret"
            if _PATH.search(value):
                return f"{place} holds a path of somebody's machine"
    return None


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def cleaned(text: str) -> str:
    """`text` as it may leave this machine: of a path the last part stays, of a secret nothing."""
    text = without_paths(_SECRET.sub(REMOVED, text))
    for _ in range(_MOST_PATHS):
        found = _PATH.search(text)
        if found is None:
            return text
        end = re.compile(r"[^\s'\"`;,()<>|]*").match(text, found.start())
        assert end is not None
        last = re.split(r"[\\/]", end[0].rstrip("\\/"))[-1]
        kept = "" if last in ("~", "") or last.endswith(":") else last
        text = f"{text[: found.start()]}{REMOVED}{'/' if kept else ''}{kept}{text[max(end.end(), found.end()) :]}"
    return REMOVED
