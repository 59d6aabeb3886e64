"""The course's four questions: word for word in Danish, and in English."""

from __future__ import annotations

from collections.abc import Mapping

NAME = "course"

# By language and name.
QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "da": {
        "quantum": "Forklar kvantecomputing på en enkel måde.",
        "sort": "Skriv en Python-funktion til at sortere en liste.",
        "remote": "Hvad er fordele og ulemper ved fjernarbejde?",
        "edge": "Opsummer fordelene ved edge AI.",
    },
    "en": {
        "quantum": "Explain quantum computing in a simple way.",
        "sort": "Write a Python function that sorts a list.",
        "remote": "What are the advantages and drawbacks of remote work?",
        "edge": "Summarise the benefits of edge AI.",
    },
}
LANGUAGES = tuple(QUESTIONS)
