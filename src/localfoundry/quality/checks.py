"""Every check of an item against one answer. Which kinds there are stands in `suite.Check`, how each decides beside it.

Blocking: a check that runs Python takes up to `sandbox.WALL_S` seconds.
"""

from __future__ import annotations

from localfoundry.errors import InvalidSuite
from localfoundry.quality import language, sandbox, texts, values
from localfoundry.quality.reply import Reply
from localfoundry.quality.suite import Check, Item, Suite


def failures(item: Item, reply: Reply) -> tuple[str, ...]:
    """Why the answer does not pass, a reason for each check that failed; empty where it passes."""
    found = []
    for check in item.checks:
        reason = _reason(check, reply)
        if reason is not None:
            found.append(f"{check.kind}: {reason}")
    return tuple(found)


def usable(suite: Suite) -> None:
    """Compile every pattern and schema, so that one that is none is found before any model is asked.

    Raises InvalidSuite, which names the item.
    """
    for item in suite.items:
        try:
            for check in item.checks:
                if check.regex is not None:
                    texts.matcher(check.regex)
                if check.json_schema is not None:
                    values.compiled(check.json_schema)
        except InvalidSuite as exc:
            raise InvalidSuite(f"{suite.name} ({suite.language}): item {item.id}: {exc.message}") from exc


def _reason(check: Check, reply: Reply) -> str | None:
    text = reply.text
    if check.exact is not None:
        return texts.exact(check.exact, text)
    if check.contains is not None:
        return texts.contains(check.contains, text)
    if check.regex is not None:
        return texts.regex(check.regex, text)
    if check.numeric is not None:
        return texts.numeric(check.numeric, text)
    if check.length is not None:
        return texts.length(check.length, text)
    if check.refusal is not None:
        return texts.refusal(check.refusal, text)
    return _structured(check, reply)


def _structured(check: Check, reply: Reply) -> str | None:
    if check.fields is not None:
        return values.fields(check.fields, reply.text)
    if check.json_schema is not None:
        return values.json_schema(check.json_schema, reply.text)
    if check.tool_calls is not None:
        return values.tool_calls(check.tool_calls, reply.calls)
    if check.python is not None:
        return sandbox.run(sandbox.code_of(reply.text), check.python)
    assert check.language is not None
    if language.kept(reply.text, check.language):
        return None
    return f"reads as {language.detect(reply.text) or 'no one language'}, not {check.language}"
