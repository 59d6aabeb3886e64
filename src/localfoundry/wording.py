"""Words for strangers: texts without the paths of this machine.

An error may quote the system, an engine or a setting, and with it where files lie and what the account is called. What
leaves over HTTP therefore passes here, in one place, whatever made it. A path is told by its first folder, which has to
exist at the top of this machine's disk: `/v1/models` and `https://…` are none. The name of the file stays. The
trade-off: a path whose folder does not exist, or which has odd characters in the name of a folder, may be cut late.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

_INSIDE = r"[^\n/\\'\"`:;,()<>|]*"
_WINDOWS = re.compile(rf"(?:\b[A-Za-z]:|\\\\{_INSIDE})[\\/](?:{_INSIDE}[\\/])*")


def without_paths(text: str) -> str:
    """`text` with the folder of every absolute path replaced by `…`: `/home/a/m.gguf` becomes `…/m.gguf`."""
    if "/" not in text and "\\" not in text:
        return text
    return _unix().sub("…/", _WINDOWS.sub("…/", text))


@functools.cache
def _unix() -> re.Pattern[str]:
    try:
        tops = sorted(re.escape(folder.name) for folder in Path("/").iterdir())
    except OSError:
        tops = []
    known = "|".join(tops) or "(?!)"
    return re.compile(rf"(?<![\w/.…-])(?:file:)?/+(?:{known})(?:/(?:{_INSIDE}/)*|(?![\w.-]))")
