"""Names that come from outside (a repository, an archive, a command line) parsed into ones that are safe on a disk.

Nothing here touches the disk. A name is either refused with its reason or returned as it was, so that a path is
never made by joining text that nobody looked at. The rules are those of the strictest file system we run on
(Windows), on every system: a store on a shared disk must mean the same everywhere.
"""

from __future__ import annotations

import re

from localfoundry.errors import NotAModel, UsageError

_RESERVED = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def relative_name(text: str) -> str:
    """`text`, where it is a relative path of plain parts joined by `/`. Raises NotAModel.

    Refused: empty, absolute, `.` and `..` parts, backslash, colon, control characters, names that Windows reserves,
    parts that end in a dot or a space, over 255 bytes a part or 900 in all, more than 16 parts.
    """
    reason = _why_not_relative(text)
    if reason:
        raise NotAModel(f"the file name {text[:200]!r} is refused: {reason}")
    return text


def _why_not_relative(text: str) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    parts = text.split("/")
    if not text or size > 900 or len(parts) > 16:
        return "it is empty or too long"
    if _FORBIDDEN.search(text):
        return "it holds a character that is not allowed in file names"
    for part in parts:
        if part in ("", ".", ".."):
            return "it leaves its folder or has an empty part"
        if part[-1] in ". " or part[0] == " " or len(part.encode()) > 255:
            return "a part ends in a dot or a space, or is too long"
        if part.split(".")[0].rstrip().lower() in _RESERVED:
            return "Windows reserves that name"
    return None


def variant_name(text: str) -> str:
    """`text`, where it can be the name of a variant: letters, digits, `.`, `_`, `-`; at most 120. Raises UsageError."""
    if not _VARIANT.fullmatch(text) or text[-1] == "." or text.split(".")[0].lower() in _RESERVED:
        raise UsageError(
            f"{text[:200]!r} cannot name a model: use letters, digits, '.', '_' and '-', at most 120 of them"
        )
    return text


def as_variant_name(text: str) -> str:
    """A variant name made from any text: what is not allowed becomes `-`. Lossy, never empty."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:120].rstrip("-._") or "model"
    return f"model-{name}"[:120].rstrip("-._") if name.split(".")[0].lower() in _RESERVED else name


def sha256_hex(text: str) -> str:
    """`text` in lower case, where it is a SHA-256 sum in hex. Raises NotAModel: a digest becomes a file name."""
    if not _SHA256.fullmatch(text.lower()):
        raise NotAModel(f"{text[:100]!r} is not a SHA-256 sum")
    return text.lower()
