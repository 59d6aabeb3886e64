"""Classes of licences, as far as a wish can name them. What is not in a class is not guessed to be."""

from __future__ import annotations

PERMISSIVE = frozenset({
    "0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "cc0-1.0", "isc", "mit",
    "mit-0", "ncsa", "postgresql", "unlicense", "zlib",
})  # fmt: skip
# Licences without terms on what a model may be used for, on derived models, or on how many people use it; named as the
# hubs do, by SPDX. Those of Llama and Gemma have such terms and are not among them.
CLASSES = {"permissive": PERMISSIVE}


def allows(wanted: str, license: str | None) -> bool:
    """Whether a licence is the one that is wanted, or of the class that is; one that is not known never is."""
    if license is None:
        return False
    name, members = license.strip().lower(), CLASSES.get(wanted)
    return name == wanted if members is None else name in members
