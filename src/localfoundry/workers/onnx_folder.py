"""A folder of ONNX Runtime GenAI as the worker reads it: its configuration, tokens and chat template.

`llguidance` reads `tokenizer.json` (all of Hugging Face's kinds), gives tokens as bytes and holds answers to schemas;
tokens agree with those of the `tokenizers` package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from localfoundry.workers.generation import Grammar, Refused, Unsupported, Vocabulary
from localfoundry.workers.vocabulary import of_entries

CONFIG = "genai_config.json"
_MOST_TOKENS = 2**31


class Folder:
    """Raises Unsupported naming the file that is not there or not right."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = _read(path / CONFIG)
        self.model = _part(self.config, "model")
        self.decoder = _part(self.model, "decoder")
        ends = self.model.get("eos_token_id")
        self.ends: list[int] = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(type(end) is int and 0 <= end < _MOST_TOKENS for end in self.ends):
            raise Unsupported(f"{CONFIG}: eos_token_id is no token and no list of tokens")

    def graph(self) -> Path:
        """The decoder's graph. Its name comes from a stranger: it is one of the folder's own files."""
        name = self.decoder.get("filename")
        if not isinstance(name, str) or not name:
            raise Unsupported(f"{CONFIG} names no graph of a decoder")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Unsupported(f"{CONFIG} names a graph that is not in the model's folder")
        if not (self.path / name).is_file():
            raise Unsupported(f"{Path(name).name} is missing in the model's folder")
        return self.path / name

    def names(self, kind: str) -> dict[str, Any]:
        """What the graph's `inputs` or `outputs` are called."""
        return _part(self.decoder, kind)

    def check_device(self) -> None:
        """Raises Unsupported for a folder whose configuration asks for another device than the processor."""
        given = _part(self.decoder, "session_options").get("provider_options") or []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise Unsupported(f"{CONFIG}: provider_options is no list of objects")
        wanted = [name for one in given for name in one if name.lower() != "cpu"]
        if wanted:
            raise Unsupported(f"the folder is made for {', '.join(wanted)[:100]}; one for the processor is needed")

    def template(self) -> str | None:
        alone = self.path / "chat_template.jinja"
        if alone.is_file():
            try:
                return alone.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise Unsupported(f"{alone.name} is no text in UTF-8") from None
        given = self._settings().get("chat_template")
        if isinstance(given, list):  # several, by name
            named = [one for one in given if isinstance(one, dict)]
            given = next((one.get("template") for one in named if one.get("name") == "default"), None)
        return given if isinstance(given, str) else None

    def _settings(self) -> dict[str, Any]:
        path = self.path / "tokenizer_config.json"
        return _read(path) if path.is_file() else {}

    def special_text(self, name: str) -> str:
        """The text of `bos_token` or `eos_token`; empty where the model has none."""
        given = self._settings().get(name)
        if isinstance(given, dict):
            given = given.get("content")
        return given if isinstance(given, str) else ""


class Tokens:
    """Texts as tokens and back, and grammars over them."""

    def __init__(self, folder: Folder) -> None:
        import llguidance

        self._guidance = llguidance
        path = folder.path / "tokenizer.json"
        document = _read(path)
        size = folder.model.get("vocab_size")
        self._tokenizer = llguidance.LLTokenizer(str(path), n_vocab=size, eos_token=folder.ends or None)
        self.size: int = self._tokenizer.vocab_size
        self.bos_first = _bos_first(document, folder)
        special = self._tokenizer.is_special_token
        self.vocabulary: Vocabulary = of_entries(
            {token: self._tokenizer.decode_bytes([token]) for token in range(self.size)},
            hidden=special,
            ends=folder.ends,
            bos=folder.special_text("bos_token"),
            eos=folder.special_text("eos_token"),
        )

    def encode(self, text: str, special: bool) -> list[int]:
        tokens: list[int] = self._tokenizer.tokenize_str(text, parse_special=True) if text else []
        return [*self.bos_first, *tokens] if special else tokens

    def matcher(self, grammar: Grammar) -> Matcher:
        """Raises Refused where the grammar cannot be made."""
        before, after = (f"{json.dumps(text)} " if text else "" for text in (grammar.before, grammar.after))
        lark = f"start: {before}answer {after}\nanswer: %json {grammar.schema}\n"
        kind = self._guidance.LLMatcher
        matcher = kind(self._tokenizer, kind.grammar_from_lark(lark))
        if matcher.is_error():
            raise Refused(f"the schema cannot be kept to: {matcher.get_error().splitlines()[0][:200]}")
        return Matcher(matcher, self.size)


class Matcher:
    """Follows an answer token by token."""

    def __init__(self, matcher: Any, size: int) -> None:
        import llguidance.numpy

        self._fill = llguidance.numpy.fill_next_token_bitmask
        self._matcher = matcher
        self._mask = llguidance.numpy.allocate_token_bitmask(1, size)

    def allowed(self, size: int) -> np.ndarray:
        """Which of `size` tokens may come next."""
        self._fill(self._matcher, self._mask, 0)
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[:size].astype(bool)
        return np.pad(bits, (0, size - bits.size)) if bits.size < size else bits

    def goes_on_after(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token)) and not self._matcher.is_stopped()


def _bos_first(document: dict[str, Any], folder: Folder) -> list[int]:
    """The tokens that the tokenizer writes before a text, as its post-processor says."""
    processor = document.get("post_processor") or {}
    parts = processor.get("processors") or [processor]
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            first = (part.get("single") or [{}])[0]
            if "SpecialToken" in first:
                return list(part["special_tokens"][first["SpecialToken"]["id"]]["ids"])
    bos = folder.model.get("bos_token_id")
    return [bos] if folder._settings().get("add_bos_token") is True and isinstance(bos, int) else []


def _part(document: dict[str, Any], key: str) -> dict[str, Any]:
    """An object of the configuration; empty where there is none."""
    found = document.get(key) or {}
    if not isinstance(found, dict):
        raise Unsupported(f"{CONFIG}: {key} is no object")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Unsupported(f"{path.name} is missing in the model's folder") from None
    except RecursionError:
        raise Unsupported(f"{path.name} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as exc:
        raise Unsupported(f"{path.name} cannot be read: {exc}") from None
    if not isinstance(found, dict):
        raise Unsupported(f"{path.name} does not hold an object")
    return found
