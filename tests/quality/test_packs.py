"""Every item that is shipped: its reference answer passes, its wrong answers fail, and there are enough of each."""

from __future__ import annotations

from collections import Counter

import pytest

from localfoundry.quality import key, language, recall, run
from localfoundry.quality.suite import LANGUAGES, PACKS, Language, pack

ALL = [(name, lang) for name in PACKS for lang in LANGUAGES]
MIN_ITEMS = 20


@pytest.mark.parametrize(("name", "lang"), ALL)
def test_the_key_of_every_item_fits(name: str, lang: Language) -> None:
    assert key.faults(pack(name, lang)) == []


@pytest.mark.parametrize(("name", "lang"), ALL)
def test_a_pack_has_enough_items_of_graded_difficulty(name: str, lang: Language) -> None:
    suite = pack(name, lang)
    assert (suite.name, suite.language) == (name, lang)
    assert len(suite.items) >= MIN_ITEMS
    levels = Counter(item.level for item in suite.items)
    assert set(levels) == {1, 2, 3, 4, 5}
    assert all(item.answer and item.wrong and item.tags for item in suite.items)


def test_danish_packs_are_danish_and_english_ones_english() -> None:
    """Each pack's own words, taken together; single prompts can be too short to tell."""
    for name, lang in ALL:
        prompts = " ".join(item.prompt or "" for item in pack(name, lang).items)
        assert language.detect(prompts) == lang, name


@pytest.mark.parametrize("lang", LANGUAGES)
def test_needles_lie_at_their_depths_in_texts_of_the_length_asked_for(lang: Language) -> None:
    for item in pack("recall", lang).items:
        assert item.haystack is not None
        text = recall.text(item.haystack, lang)
        assert text == recall.text(item.haystack, lang), "the same text every time"
        wanted = item.haystack.tokens * recall.CHARACTERS_PER_TOKEN[lang]
        assert wanted * 0.9 - 100 < len(text) < wanted * 1.1 + 300
        for needle in item.haystack.needles:
            assert text.count(needle.text) == 1
            assert text.index(needle.text) / len(text) == pytest.approx(needle.depth, abs=0.15)
        said = run.messages(item, lang)[-1]["content"]
        assert text in said
        assert "{haystack}" not in said
