"""Which language a text is in: Danish, English, or one that a model may slip into instead.

By words that hold sentences together (the, and, of; og, ikke, jeg) and by letters that only some of the languages
have. Libraries were looked at: those that are right about short texts bring models of up to a hundred megabytes or
need numpy, and what is asked here is narrow. The trade-off, said openly: a text with few such words, a list of names
or code, is `None`, and Danish and Norwegian share most words; they are told apart by the words that differ, so a
short Norwegian sentence can pass for Danish.
"""

from __future__ import annotations

import re

MIN_EVIDENCE = 3  # words that speak for a language, below which nothing is said
LEAD = 1.3  # how much more evidence the first needs over the second

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")

_TEXTS = {
    "en": """
        the of and to a is that it was for on are as with they be at have this from or had by but not what all
        were we when your can said there use an each which she do how their if will up other about out many then
        them these so some her would make like him into has two more my than first been who its now you i he his
        our because should could also very just any only most through where after while does
    """,
    "da": """
        og i at det er en til på de som den af med for jeg ikke der var et har han hun vi kan fra men om dig du
        dem sig eller skal vil så nu mig havde hvor når også ved mere blev efter ud op meget kun være blive
        bliver hvad hvis min din sin noget nogle alle andre mange denne dette disse deres vores fordi mellem
        uden under over selv siger hvordan hvorfor hver mens begge samt måske derfor altså bare ofte første gør
        få får lige
    """,
    "no": """
        og i at det er en til på de som den av med for jeg ikke der var et har han hun vi kan fra men om deg du
        dem seg eller skal vil så nå meg hadde hvor når også ved mer ble etter ut opp mye bare være blir hva
        hvis min din sin noe noen alle andre mange denne dette disse deres våre fordi mellom uten under over
        selv sier hvordan hvorfor hver mens begge samt kanskje derfor altså ofte første gjør få får eg ikkje
    """,
    "sv": """
        och i att det är en till på de som den av med för jag inte där var ett har han hon vi kan från men om
        dig du dem sig eller ska vill så nu mig hade när också vid mer blev efter ut upp mycket bara vara blir
        vad min din sin något några alla andra många denna detta dessa deras våra eftersom mellan utan under
        över själv säger hur varför varje medan båda samt kanske därför alltså ofta första gör får
    """,
    "de": """
        der die das und ist in zu den von mit sich des auf für nicht ein eine als auch es an werden aus er hat
        dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur
        bis mehr durch man kann ich wir du ihr wenn weil unter sehr schon dieser diese dieses
    """,
}
_COMMON = {language: frozenset(text.split()) for language, text in _TEXTS.items()}
# Letters that a language has and its rivals here have not.
_LETTERS = {"da": "æø", "no": "æø", "sv": "ä", "de": "ßü"}


def detect(text: str) -> str | None:
    """`en`, `da`, `no`, `sv` or `de`; None where too little speaks for one of them. Code and addresses do not count."""
    words = _words(text)
    evidence = {language: _evidence(language, words) for language in _COMMON}
    first, second = sorted(evidence, key=lambda language: -evidence[language])[:2]
    if evidence[first] < MIN_EVIDENCE:
        return None
    if {first, second} == {"da", "no"}:
        return _danish_or_norwegian(words)
    return first if evidence[first] >= LEAD * evidence[second] else None


def kept(text: str, language: str) -> bool:
    """Whether nothing shows that `text` is in another language.

    A short answer can be right and hold hardly a word that tells: it passes where no other language has more of them.
    """
    words = _words(text)
    evidence = {known: _evidence(known, words) for known in _COMMON}
    if max(evidence.values()) < MIN_EVIDENCE:
        return evidence[language] == max(evidence.values())
    return detect(text) == language


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_CODE.sub(" ", text))]


def _evidence(language: str, words: list[str]) -> float:
    letters = _LETTERS.get(language, "")
    common = sum(word in _COMMON[language] for word in words)
    return common + 0.5 * sum(any(letter in word for letter in letters) for word in words)


def _danish_or_norwegian(words: list[str]) -> str:
    """By the words and spellings that only one of them has; Danish where none is there, as it is what was asked."""
    danish = sum(word in _COMMON["da"] - _COMMON["no"] for word in words)
    norwegian = sum(word in _COMMON["no"] - _COMMON["da"] for word in words)
    danish += sum(word.endswith(("hed", "heder", "ede")) for word in words)
    norwegian += sum(word.endswith(("het", "heter", "sjon")) for word in words)
    return "no" if norwegian > danish else "da"
