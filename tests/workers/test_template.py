"""The workers' own rendering of chat templates: as the one that templates are tried with, which is llama.cpp's."""

from __future__ import annotations

import pytest

from formats import test_template as known
from localfoundry.formats.render import render_all
from localfoundry.formats.template import golden_cases
from localfoundry.workers.generation import Refused
from localfoundry.workers.template import ChatTemplate

_FAMILIES = ("CHATML", "LLAMA3", "GEMMA", "PHI3", "PHI4_MINI", "PHI4", "DEEPSEEK", "MISTRAL", "TOOLS")


@pytest.mark.parametrize("family", _FAMILIES)
def test_renderings_agree_with_those_that_templates_are_tried_with(family: str) -> None:
    source = getattr(known, family)
    cases = [case for case in golden_cases(source) if case.generate and "as text" not in case.name]
    assert len(cases) > 2
    expected = render_all(source, cases, bos="<s>", eos="</s>")
    template = ChatTemplate(source, "<s>", "</s>")
    for case in cases:
        wanted = expected[case.name]
        if wanted.text is None:
            with pytest.raises(Refused):
                template.render(case.messages, case.tools)
        else:
            assert template.render(case.messages, case.tools) == wanted.text


def test_arguments_of_calls_become_values_and_parts_one_text() -> None:
    template = ChatTemplate("{{ messages | tojson }}", "", "")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "<ø>"}'}}
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    text = template.render([{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": [call]}])
    assert '"content": "one\\ntwo"' in text
    assert '"arguments": {"a": "<ø>"}' in text


def test_what_a_client_adds_for_the_template_gets_there() -> None:
    template = ChatTemplate("{{ 'thinks' if enable_thinking else 'does not' }}", "", "")
    assert template.render([{"role": "user", "content": "x"}], None, {"enable_thinking": True}) == "thinks"
    assert template.render([{"role": "user", "content": "x"}]) == "does not"
