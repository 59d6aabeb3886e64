"""Texts of all scripts through each engine on the real model: a stream says byte for byte what the plain answer says.

What the model says is drawn at random with a seed and a high temperature, so that its tokens are cut anywhere: within
characters, between a letter and its marks, in the middle of an emoji that is made of several.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from api.server import Server, text_of
from localfoundry.store.manifest import Manifest

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("starter")]

STARTER = "smollm2-135m"
AT_ONCE = ("openvino",)
MANY, FEW = 1000, 5
BLOCK = 32  # tokens that engines remember together
SCRIPTS = {
    "latin": (0x20, 0x24F), "greek": (0x370, 0x3FF), "cyrillic": (0x400, 0x4FF), "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x620, 0x64A), "devanagari": (0x904, 0x939), "thai": (0xE01, 0xE3A), "hangul": (0xAC00, 0xD7A3),
    "kana": (0x3041, 0x30FF), "han": (0x4E00, 0x9FFF), "emoji": (0x1F300, 0x1F64F), "gothic": (0x10330, 0x1034A),
    "marks": (0x300, 0x36F),
}  # fmt: skip
JOINED = ["👩‍👩‍👧", "🇩🇰", "é", "ﷺ", "\u202eabc\u202c", "\u0000", "\ufeff", "Zürich — naïve café", "<|im_end|>", "\r\n"]


@pytest.fixture(scope="module")
def real(
    engine: str, request: pytest.FixtureRequest, pulled_starter: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    made = Server(
        tmp_path_factory.mktemp("texts"), FOUNDRY_CONTEXT_LENGTH=4096, FOUNDRY_PARALLEL=4, FOUNDRY_ENGINE=engine
    )
    made.has(request.getfixturevalue("starter_store"))
    if engine == "llama.cpp":  # its threads wait for each other at full speed, and for long where others compute
        one = {"engineArguments": ["--threads", "1"]}
        made.settings.file.write_text(json.dumps({"models": {STARTER: one}}))
    made.start()
    made.http.timeout = 110
    made.chat(STARTER, max_tokens=1)
    loaded = made.loaded(STARTER)
    assert loaded is not None and loaded["engine_name"] == engine
    yield made
    made.stop()


def _prompt(seed: int) -> str:
    source = random.Random(seed)
    words = []
    for _ in range(source.randint(1, 5)):
        first, last = SCRIPTS[source.choice(list(SCRIPTS))]
        words.append("".join(chr(source.randint(first, last)) for _ in range(source.randint(1, 6))))
    words.append(source.choice(JOINED))
    source.shuffle(words)
    return " ".join(words)


def _asked(seed: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": _prompt(seed)}], "max_tokens": 10, "ignore_eos": True,
        "temperature": 2.0 if seed % 2 else 0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": seed,
        "cache_prompt": False,
    }  # fmt: skip


def _streamed(real: Server, fields: dict[str, Any]) -> tuple[str, int]:
    """The text of a stream, from its bytes, which must be sound UTF-8 in every event by itself; and its tokens."""
    body = {"model": STARTER, **fields, "stream": True, "stream_options": {"include_usage": True}}
    with real.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        data = b"".join(answer.iter_bytes())
    assert answer.status_code == 200, data
    events = [
        json.loads(one[6:].decode("utf-8", "strict")) for one in data.split(b"\n\n") if one.startswith(b"data: {")
    ]
    assert b"data: [DONE]" in data
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    return text, events[-1]["usage"]["completion_tokens"]


def _compare(real: Server, count: int) -> None:
    """Every text plain and as a stream, one after the other, with its prompt known already: engines round otherwise
    beside others and behind a beginning that they remember, OpenVINO even every time where that is whole blocks.

    So that the test tests, many answers are not ASCII.
    """

    def one(seed: int) -> tuple[str, str]:
        fields = _asked(seed)
        while real.chat(STARTER, **fields)["usage"]["prompt_tokens"] % BLOCK == 0:
            fields["messages"][0]["content"] += " ."
        plain = real.chat(STARTER, **fields)
        streamed, tokens = _streamed(real, fields)
        assert tokens == plain["usage"]["completion_tokens"]
        return text_of(plain), streamed

    answers = [one(seed) for seed in range(count)]
    different = [(seed, pair) for seed, pair in enumerate(answers) if pair[0].encode() != pair[1].encode()]
    assert not different, f"{len(different)} of {count}: {different[:3]}"
    assert sum(not text.isascii() for text, _ in answers) > count // 5


def test_a_few_texts_stream_as_they_are_answered_plainly(real: Server) -> None:
    _compare(real, FEW)


@pytest.mark.thorough
@pytest.mark.timeout(7200)
def test_a_thousand_texts_stream_as_they_are_answered_plainly(real: Server) -> None:
    _compare(real, MANY)
