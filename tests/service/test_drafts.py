"""A smaller model guesses ahead for a larger one: found by its vocabulary, counted, kept, and without a say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from formats.gguf_file import gguf, tiny_llama
from harness import Foundry
from localfoundry import config
from localfoundry.build import quantize
from localfoundry.errors import InvalidSetting
from localfoundry.formats import vocabulary
from localfoundry.instance import running as running_service
from localfoundry.service import drafts
from localfoundry.sources.resolve import resolve
from localfoundry.store.manifest import Manifest
from localfoundry.store.pull import pull
from localfoundry.store.store import Store

REWRITE = "Write this again: def total(values):\n    result = 0\n    for value in values:\n        result += value"
NAMES = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.eos_token_id": 1}
TEXTS = ["<s>", "</s>", *(f"t{n}" for n in range(300))]


def file(path: Path, texts: list[str] = TEXTS, **changes: Any) -> Path:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    path.write_bytes(gguf({"general.architecture": "llama", **NAMES, **named, "tokenizer.ggml.tokens": texts}))
    return path


def test_vocabularies_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    one = file(tmp_path / "one.gguf")
    assert vocabulary.differ(one, file(tmp_path / "same.gguf", general__name="another")) is None
    padded = file(tmp_path / "padded.gguf", [*TEXTS, "<unused>"])
    assert vocabulary.differ(one, padded) is None and vocabulary.differ(padded, one) is None
    said = {
        vocabulary.differ(one, file(tmp_path / "a.gguf", [*TEXTS[:-1], "other"])): "tokens with other texts",
        vocabulary.differ(one, file(tmp_path / "b.gguf", [*TEXTS, *TEXTS])): "302 and 604 tokens",
        vocabulary.differ(one, file(tmp_path / "c.gguf", tokenizer__ggml__eos_token_id=0)): "eos 1 and 0",
        vocabulary.differ(one, file(tmp_path / "d.gguf", tokenizer__ggml__pre="qwen2")): "gpt2/smollm and gpt2/qwen2",
    }
    for words, expected in said.items():
        assert words is not None and expected in words
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(gguf({"general.architecture": "llama"}))
    assert vocabulary.differ(one, bare) == "a file without a vocabulary"


def test_the_name_is_found_and_becomes_the_file_however_it_is_written() -> None:
    for words in (("--spec-draft-model", "small"), ("--spec-draft-model=small",)):
        given = ("--threads", "1", *words, "--spec-type", "draft-simple")
        assert drafts.named(given) == "small"
        assert drafts.renamed(given, "/m") == ("--threads", "1", "--spec-draft-model", "/m", "--spec-type",
                                               "draft-simple")  # fmt: skip
    assert drafts.named(("--threads", "1")) is None and drafts.named(()) is None
    assert drafts.named(("--spec-draft-model",)) == ""
    assert drafts.renamed(("--spec-draft-model", "/etc/passwd", "--spec-draft-model=x"), "/m").count("/m") == 2


async def test_one_that_cannot_draft_is_refused_with_what_to_type(starter: Manifest, tmp_path: Path) -> None:
    """A file that is named by its path is no model: nothing is opened that the store does not know."""
    settings = config.load()
    store = Store(settings.models_dir)
    (tmp_path / "other.gguf").write_bytes(tiny_llama())
    other = await pull(store, await resolve(str(tmp_path / "other.gguf"), settings=settings))
    for name, said in (
        ("/etc/passwd", "is not on this disk"),
        ("smollm9", "is not on this disk"),
        (other.id, "vocabular"),
    ):
        with pytest.raises(InvalidSetting, match=said) as refused:
            drafts.required(store, ("--spec-draft-model", name), starter)
        assert refused.value.hint
    assert drafts.candidates(store, starter) == []


async def test_smaller_ones_with_the_same_vocabulary_are_proposed(isolated: Path) -> None:
    settings = config.load()
    store = Store(settings.models_dir)
    (isolated / "large.gguf").write_bytes(tiny_llama())
    (isolated / "stranger.gguf").write_bytes(
        tiny_llama(tokenizer__ggml__tokens=[f"word{n}" for n in range(30)], general__name="Stranger")
    )
    large, stranger = [
        await pull(store, await resolve(str(isolated / f"{name}.gguf"), settings=settings))
        for name in ("large", "stranger")
    ]
    small = [
        quantize.make(store, quantize.plan(store, source, "Q4_0", settings, allow_requantize=True))
        for source in (large, stranger)
    ]
    assert drafts.candidates(store, large) == [small[0]]
    assert drafts.candidates(store, stranger) == [small[1]]
    assert drafts.candidates(store, small[0]) == [], "a larger one does not guess for a smaller one"


@pytest.mark.real_model
def test_greedy_answers_are_the_same_and_the_draft_is_counted_and_kept(starter: Manifest, foundry: Foundry) -> None:
    settings = config.load()
    store = Store(settings.models_dir)
    draft = quantize.make(store, quantize.plan(store, starter, "Q4_0", settings, allow_requantize=True))

    def loaded_and_asked() -> tuple[dict[str, Any], dict[str, Any]]:
        account: dict[str, Any] = foundry.ok("model", "load", starter.id, "--ctx", "512", "--json").json
        state = running_service(settings)
        assert state is not None
        body = {"model": starter.id, "messages": [{"role": "user", "content": REWRITE}], "temperature": 0}
        with httpx2.Client(trust_env=False, timeout=120) as http:
            answer = http.post(f"{state.url}/v1/chat/completions", json=body | {"max_tokens": 16})
        assert answer.status_code == 200, answer.text
        return account, answer.json()

    plain, alone = loaded_and_asked()
    foundry.ok("service", "stop")  # a file that changes beside a running one is seen a moment later
    words = ["--spec-draft-model", draft.name, "--spec-type", "draft-simple", "--spec-draft-n-max", "4"]
    file = settings.home / "settings.json"
    file.write_text(json.dumps({"models": {starter.id: {"engineArguments": words}}}))
    account, guessed = loaded_and_asked()
    assert guessed["choices"][0]["message"]["content"] == alone["choices"][0]["message"]["content"]
    assert guessed["timings"]["draft_n"] > 0, "nothing was guessed"
    assert account["draft"] == draft.id and str(store.root) not in str(account["engine_arguments"])
    more = account["memory"]["claimed"] - plain["memory"]["claimed"]
    assert more > 70_000_000, "its weights and its cache are in the account"
    refused = foundry("cache", "remove", draft.id, "--yes")
    assert refused.code != 0 and f"the service has it loaded for {starter.id}" in refused.err
