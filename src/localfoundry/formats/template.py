"""Is this chat template the right one? Rendered on golden conversations and judged by what comes out.

A model with a wrong template loads, answers, and answers nonsense. The symptoms can be seen before it runs: no marks
between the speakers, a message that vanishes, no prompt for an answer, marks that are no tokens of this model, turns
that end otherwise than the model's stop tokens. `render.py` makes the renderings; all judgement here is pure.

The findings are words for a person. A template that merely differs is a warning and no refusal: new families appear.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from localfoundry.formats.families import Family
    from localfoundry.formats.render import Case, Rendering

USER, ANSWER, SECOND = "What is the capital of France?", "The capital is Paris.", "And what is Spain's?"
SYSTEM = "Answer in five words."
RESULT = "4 degrees and rain"
TOOL = "get_weather"
# Texts that llama.cpp ends an answer at by itself, whatever the file calls its last token. src/llama-vocab.cpp.
ENGINE_STOPS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
     "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
     "<|eot|>", "<｜end▁of▁sentence｜>", "<turn|>")
)  # fmt: skip
_MARK = re.compile(r"<[|｜][^|｜<>\s]{1,48}[|｜]>|</?(?:start|end)_of_(?:turn|utterance|image)>|</s>")


class TemplateCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it. `system` and `tools`: whether such messages are taken; None where it was not tried."""

    found: bool  # whether there is a template at all
    family: str | None = None
    stops: tuple[str, ...] = ()
    system: bool | None = None
    tools: bool | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.found and not self.warnings

    def words(self) -> str:
        """One line: `ok, ChatML, stops at <|im_end|>, no tools`."""
        if not self.found:
            return "none in the file"
        parts = ["ok" if self.ok else f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}"]
        parts.append(self.family or "a family not known here")
        parts.append(f"stops at {' and '.join(self.stops)}" if self.stops else "no stop token seen")
        if self.system is False:
            parts.append("no system messages")
        parts.append("tools" if self.tools else "no tools")
        return ", ".join(parts)


def golden_cases(template: str) -> list[Case]:
    """The conversations that `template` is tried on; one with a tool where it speaks of tools."""
    from localfoundry.formats.render import Case

    user = [_message("user", USER)]
    longer = [*user, _message("assistant", ANSWER), _message("user", SECOND)]
    cases = [
        Case("user", user),
        Case("unprompted", user, generate=False),
        Case("system", [_message("system", SYSTEM), *user]),
        Case("turns", longer),
    ]
    if re.search(r"\btools\b", template):
        described = {"name": TOOL, "description": "The weather of a city.", "parameters": {
            "type": "object", "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"]}}  # fmt: skip
        tools = [{"type": "function", "function": described}]
        for name, arguments in (("tool", {"city": "Oslo"}), ("tool, arguments as text", '{"city": "Oslo"}')):
            call = {"id": "call00001", "type": "function", "function": {"name": TOOL, "arguments": arguments}}
            said = {"role": "assistant", "content": "", "tool_calls": [call]}
            answer = {"role": "tool", "name": TOOL, "tool_call_id": "call00001", "content": RESULT}
            cases.append(Case(name, [*user, said, answer], tools=tools))
    return cases


def check(
    template: str | None, *, tokens: Mapping[str, str] | None = None, vocabulary: Container[str] | None = None
) -> TemplateCheck:
    """Render and judge. Blocking: a process is started; at most `render.DEADLINE_S` seconds.

    tokens: texts of the named tokens (bos, eos, eot, …), where known; vocabulary: what is a token, where known.
    """
    if not template:
        return TemplateCheck(False)
    from localfoundry.formats.render import render_all

    named = tokens or {}
    rendered = render_all(template, golden_cases(template), bos=named.get("bos", ""), eos=named.get("eos", ""))
    return judge(rendered, tokens=named, vocabulary=vocabulary)


def judge(
    rendered: Mapping[str, Rendering], *, tokens: Mapping[str, str], vocabulary: Container[str] | None
) -> TemplateCheck:
    """What the renderings show. Pure."""
    from localfoundry.formats.families import family_of

    user, turns = rendered["user"].text, rendered["turns"].text
    if user is None:
        return TemplateCheck(True, warnings=(f"it does not render: {rendered['user'].problem}",))
    if turns is None:
        return TemplateCheck(True, warnings=(f"a second turn does not render: {rendered['turns'].problem}",))
    family = family_of(turns)
    warnings = [*_contents(user, turns), *_prompt(rendered, family), *_golden(user, turns, family)]
    system, problem = _system(rendered["system"])
    warnings += problem
    tools, problem = _tools(rendered)
    warnings += problem
    warnings += _strangers(turns, vocabulary)
    stops, problem = _stops(turns, family, tokens)
    warnings += problem
    return TemplateCheck(True, family.name if family else None, stops, system, tools, tuple(warnings))


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _contents(user: str, turns: str) -> list[str]:
    places = [turns.find(text) for text in (USER, ANSWER, SECOND)]
    if USER not in user or -1 in places:
        return ["a message is lost: not every content stands in the rendering"]
    if places != sorted(places):
        return ["messages are out of order"]
    between = turns[places[0] + len(USER) : places[1]], turns[places[1] + len(ANSWER) : places[2]]
    if not all(part.strip() for part in between):
        return ["nothing marks who speaks: messages of user and assistant run into each other"]
    return []


def _prompt(rendered: Mapping[str, Rendering], family: Family | None) -> list[str]:
    with_prompt, without = rendered["user"].text or "", rendered["unprompted"].text or ""
    after = with_prompt[with_prompt.rfind(USER) + len(USER) :]
    if with_prompt != without or re.search(r"assistant|model|bot", after, re.IGNORECASE):
        return []
    if family and any(not spelling.prompt for spelling in family.spellings):
        return []  # the end of the user's turn asks for the answer
    return ["the prompt for an answer is missing: the model may go on as the user"]


def _golden(user: str, turns: str, family: Family | None) -> list[str]:
    """Agreement with one spelling of the family. What stands before and after is free: dates, default instructions."""
    if family is None or not family.spellings:
        return []
    if any(s.conversation(USER) in user and _agrees(s, turns) for s in family.spellings):
        return []
    wanted = family.spellings[0].conversation(USER)
    begin = max(user.find(USER) - 30, 0)
    return [f"it is not {family.name} as models know it: {user[begin:][:120]!r} instead of {wanted!r}"]


def _agrees(spelling: Any, turns: str) -> bool:
    """The whole conversation, or its last question: reasoning models take the thoughts of earlier answers out."""
    return spelling.conversation(USER, ANSWER, SECOND) in turns or (
        spelling.conversation(SECOND) in turns and spelling.user.replace("{}", USER) in turns
    )


def _system(rendering: Rendering) -> tuple[bool | None, list[str]]:
    if rendering.text is None:
        return False, [] if rendering.refused else [f"a system message does not render: {rendering.problem}"]
    if SYSTEM not in rendering.text:
        return False, ["a system message is dropped in silence"]
    return True, []


def _tools(rendered: Mapping[str, Rendering]) -> tuple[bool | None, list[str]]:
    tried = [r for name, r in rendered.items() if name.startswith("tool")]
    if not tried:
        return None, []
    texts = [r.text for r in tried if r.text is not None]
    if not texts:
        return False, [f"a conversation with a tool does not render: {tried[0].problem}"]
    best = max(texts, key=lambda t: (TOOL in t) + (RESULT in t) + ("Oslo" in t))
    missing = [
        what
        for what, sign in (("the call", "Oslo"), ("the tool's name", TOOL), ("its result", RESULT))
        if sign not in best
    ]
    if missing:
        return False, [f"a conversation with a tool is rendered without {' and '.join(missing)}"]
    return True, []


def _strangers(turns: str, vocabulary: Container[str] | None) -> list[str]:
    if vocabulary is None:
        return []
    unknown = [mark for mark in dict.fromkeys(_MARK.findall(turns)) if mark not in vocabulary]
    if not unknown:
        return []
    shown = ", ".join(unknown[:4])
    return [f"{shown}: not in this model's vocabulary, so the template may be another model's"]


def _stops(turns: str, family: Family | None, tokens: Mapping[str, str]) -> tuple[tuple[str, ...], list[str]]:
    """Marks that end an assistant's turn in the rendering and are ends to the engine."""
    own = {text for name, text in tokens.items() if name in ("eos", "eot", "eom")}
    begin, end = turns.find(ANSWER) + len(ANSWER), turns.find(SECOND)
    emitted = list(dict.fromkeys(_MARK.findall(turns[begin:end])))
    stops = tuple(mark for mark in emitted if mark in own or mark in ENGINE_STOPS)
    if not stops and family and family.stop in own:
        stops = (family.stop,)  # where the next turn's own mark ends the last one
    if stops or not own:
        return stops, []
    ends = f"ends a turn with {emitted[0]}" if emitted else "ends a turn with no mark"
    return (), [f"it {ends}, and the model stops at {' and '.join(sorted(own))}: answers may run on"]
