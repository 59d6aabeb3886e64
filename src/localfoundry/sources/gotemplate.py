"""Ollama's prompt templates (Go's text/template) as Jinja, as far as they can be, and otherwise a clear no.

Translated: text, trimming (`{{-`, `-}}`), `if` / `else if` / `else` / `end`, `range .Messages` with or without index,
`.Role`, `.Content`, `.System`, `.Prompt`, `.Response`, `$.System`, string literals, `eq`, `ne`, `and`, `or`, `not`.
Anything else (tools, functions, assignments) raises Untranslatable with the words that were not understood: half a
template would give a model that answers badly, and nobody would know why. The template inside a GGUF, where there is
one, is the better one and is what engines use.

Ollama's older form has no loop; it is rendered once for each turn, and cut at `.Response` for the answer to come.
"""

from __future__ import annotations

import json
import re

MAX_CHARACTERS = 64_000
_MAX_DEPTH = 40
_ACTION = re.compile(r"\{\{(-(?=\s))?\s*(.*?)\s*((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()"]+')
_RANGE = re.compile(r"range\s+(?:\$(?:\w+|_)\s*,\s*\$\w+\s*:=\s*)?\$?\.Messages")
_TOP_NAMES = {".System": "ns.system", "$.System": "ns.system", ".Prompt": "ns.prompt", ".Response": "ns.response",
              ".Messages": "messages", "$.Messages": "messages"}  # fmt: skip
_LOOP_NAMES = {".Role": "message['role']", ".Content": "message['content']", "$.System": "ns.system"}
_NAMESPACE = "{%- set ns = namespace(system='', prompt='', response='') -%}"
_SYSTEM = (  # all system messages, as Ollama joins them
    "{%- for m in messages -%}{%- if m['role'] == 'system' -%}"
    "{%- set ns.system = ns.system ~ ('\\n\\n' if ns.system else '') ~ m['content'] -%}"
    "{%- endif -%}{%- endfor -%}"
)


class Untranslatable(Exception):
    """The template says something that has no translation; the message is what."""


def to_jinja(template: str) -> str:
    """The Jinja form over `messages`. Raises Untranslatable."""
    if len(template) > MAX_CHARACTERS:
        raise Untranslatable(f"it has more than {MAX_CHARACTERS} characters")
    pieces = _pieces(template)
    if any(kind == "action" and _RANGE.fullmatch(text) for kind, text in pieces):
        return _NAMESPACE + _SYSTEM + _render(pieces)
    return _turns(pieces)


def _pieces(template: str) -> list[tuple[str, str]]:
    """Text and actions in order, trimming done."""
    pieces: list[tuple[str, str]] = []
    position, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        text = text.lstrip() if trim else text
        pieces.append(("text", text.rstrip() if match[1] else text))
        pieces.append(("action", match[2]))
        position, trim = match.end(), bool(match[3])
    rest = template[position:]
    pieces.append(("text", rest.lstrip() if trim else rest))
    return [(kind, text) for kind, text in pieces if kind == "action" or text]


def _turns(pieces: list[tuple[str, str]]) -> str:
    """A template without a loop: once for each user message, with the answer where there is one."""
    at = next((i for i, piece in enumerate(pieces) if piece == ("action", ".Response")), len(pieces))
    before, after = _render(pieces[:at]), _render(pieces[at + 1 :])
    return (
        _NAMESPACE + "{%- for m in messages -%}"
        "{%- if m['role'] == 'system' -%}{%- set ns.system = m['content'] -%}"
        "{%- elif m['role'] == 'user' -%}{%- set ns.prompt = m['content'] -%}"
        + before
        + "{%- set ns.system = '' -%}{%- elif m['role'] == 'assistant' -%}{{ m['content'] }}"
        + after
        + "{%- endif -%}{%- endfor -%}"
    )


def _render(pieces: list[tuple[str, str]]) -> str:
    """Text becomes string literals: how Jinja is set to trim white space then does not matter."""
    out: list[str] = []
    open_blocks: list[str] = []
    for kind, text in pieces:
        if kind == "text":
            out.append("{{ " + _literal(text) + " }}")
            continue
        out.append(_action(text, _LOOP_NAMES if "for" in open_blocks else _TOP_NAMES, open_blocks))
        if len(open_blocks) > _MAX_DEPTH:
            raise Untranslatable(f"more than {_MAX_DEPTH} blocks inside each other")
    if open_blocks:
        raise Untranslatable("a block is not closed")
    return "".join(out)


def _action(text: str, names: dict[str, str], blocks: list[str]) -> str:
    word, _, rest = text.partition(" ")
    if text.startswith("/*"):
        return ""
    if word == "if":
        blocks.append("if")
        return "{% if " + _expression(rest, names) + " %}"
    if text == "else" and blocks[-1:] == ["if"]:
        return "{% else %}"
    if word == "else" and rest.strip().startswith("if ") and blocks[-1:] == ["if"]:
        return "{% elif " + _expression(rest.strip()[3:], names) + " %}"
    if text == "end" and blocks:
        return "{% endif %}" if blocks.pop() == "if" else "{% endfor %}"
    if _RANGE.fullmatch(text):
        if "for" in blocks:
            raise Untranslatable("a loop over the messages inside another")
        if ":=" in text:
            raise Untranslatable(text[:80])
        blocks.append("for")
        return "{% for message in messages %}"
    return "{{ " + _expression(text, names) + " }}"


def _expression(text: str, names: dict[str, str]) -> str:
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != "".join(_squeezed(text)):
        raise Untranslatable(text[:80])
    value, rest = _call(tokens, names, 0)
    if rest:
        raise Untranslatable(text[:80])
    return value


def _squeezed(text: str) -> list[str]:
    """The text without white space outside of string literals."""
    return [part if part.startswith('"') else "".join(part.split()) for part in re.split(r'("(?:[^"\\]|\\.)*")', text)]


def _call(tokens: list[str], names: dict[str, str], depth: int) -> tuple[str, list[str]]:
    """One call or operand: `eq .Role "user"`, `not .System`, `.Content`."""
    if not tokens or depth > _MAX_DEPTH:
        raise Untranslatable("an expression that is empty or too deep")
    function = tokens[0]
    if function not in ("eq", "ne", "and", "or", "not"):
        return _operand(tokens, names, depth)
    operands, rest = [], tokens[1:]
    while rest and rest[0] != ")":
        value, rest = _operand(rest, names, depth)
        operands.append(value)
    if function == "not" and len(operands) == 1:
        return f"(not {operands[0]})", rest
    if function in ("eq", "ne") and len(operands) == 2:
        return f"({operands[0]} {'==' if function == 'eq' else '!='} {operands[1]})", rest
    if function in ("and", "or") and len(operands) > 1:
        return "(" + f" {function} ".join(operands) + ")", rest
    raise Untranslatable(" ".join(tokens)[:80])


def _operand(tokens: list[str], names: dict[str, str], depth: int) -> tuple[str, list[str]]:
    first, rest = tokens[0], tokens[1:]
    if first == "(":
        value, rest = _call(rest, names, depth + 1)
        if rest[:1] != [")"]:
            raise Untranslatable("a parenthesis is not closed")
        return value, rest[1:]
    if first.startswith('"'):
        try:
            return _literal(json.loads(first)), rest
        except ValueError as exc:
            raise Untranslatable(first[:80]) from exc
    if first in names:
        return names[first], rest
    raise Untranslatable(first[:80])


def _literal(text: str) -> str:
    """A Jinja string; its escapes are Python's, so control characters are written out."""
    return "'" + "".join(_escaped(c) for c in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    return (
        character if character.isprintable() else f"\\u{ord(character):04x}" if ord(character) < 0x10000 else character
    )
