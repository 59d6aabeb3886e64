"""Danish is told from its neighbours on sentences as people and models write them."""

from __future__ import annotations

import pytest

from localfoundry.quality.language import detect, kept

SENTENCES = {
    "da": (
        "Jeg har aldrig været i Aarhus, men jeg vil gerne derhen til sommer.",
        "Det er en god idé at cykle, fordi man får motion og sparer penge.",
        "Hvad mener du om det forslag, som bestyrelsen kom med i går?",
        "Kunstig intelligens kan hjælpe læger med at stille en diagnose, men den kan ikke erstatte dem.",
        "Fjernarbejde giver frihed, men nogle føler sig også ensomme derhjemme.",
        "Funktionen sorterer listen og returnerer den i faldende orden.",
        "Vi mødes ved havnen klokken syv, hvis det ikke regner.",
    ),
    "en": (
        "I have never been to York, but I would like to go there in the summer.",
        "The function sorts the list and returns it in descending order.",
        "Remote work gives people freedom, although some of them feel lonely at home.",
        "What do you think of the proposal that the board made yesterday?",
        "Edge AI runs models on the device itself, so the data does not leave it.",
    ),
    "no": (
        "Jeg har aldri vært i Bergen, men jeg vil gjerne reise dit når det blir sommer.",
        "Hva mener du om forslaget som styret kom med i går, og hvorfor er noen av dem uenige?",
        "Det er lurt å sykle til jobb fordi du får mosjon, og du blir ikke sittende i kø etter arbeidet.",
    ),
    "sv": (
        "Jag har aldrig varit i Lund, men jag vill gärna åka dit när det blir sommar.",
        "Det är bra att cykla till jobbet eftersom man får motion och inte behöver stå i kö.",
        "Vad tycker du om förslaget som styrelsen kom med, och varför är några av dem emot det?",
    ),
    "de": (
        "Ich bin noch nie in Bremen gewesen, aber ich möchte im Sommer dorthin.",
        "Die Funktion sortiert die Liste und gibt sie in absteigender Ordnung zurück, wenn sie nicht leer ist.",
    ),
}


@pytest.mark.parametrize(("language", "text"), [(lang, text) for lang, texts in SENTENCES.items() for text in texts])
def test_real_sentences(language: str, text: str) -> None:
    assert detect(text) == language


@pytest.mark.parametrize(
    "text", ["", "Oslo", "42", "Ida, Tom, Wei", "```\nfor i in the_list: print(i)\n```", "abe, zebra, æble"]
)
def test_too_little_text_is_not_judged(text: str) -> None:
    assert detect(text) is None


def test_code_does_not_count() -> None:
    code = "```python\n# this is the list of all that they have and it is for you\n```"
    assert detect(f"Her er den funktion, du bad om, og den er ikke lang.\n{code}") == "da"


def test_half_and_half_is_not_judged() -> None:
    assert detect("Det er en god idé, og det the rest of it is not.") is None


@pytest.mark.parametrize(
    ("text", "language", "passes"),
    [
        ("Chlorophyll absorbs red and blue light, reflecting green.", "en", True),
        ("Bladene indeholder klorofyl.", "da", True),
        ("Tør", "da", True),
        ("The leaves hold a pigment.", "da", False),
        ("Bladene er grønne.", "en", False),
        ("Det er en god idé, og det the rest of it is not.", "da", False),
    ],
)
def test_a_short_answer_passes_where_nothing_shows_another_language(text: str, language: str, passes: bool) -> None:
    """A right answer of eight words was once failed for holding one word that tells."""
    assert kept(text, language) == passes
