"""Ollama's templates in Jinja: the same prompt, or a clear no."""

from __future__ import annotations

import minijinja
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.sources.gotemplate import Untranslatable, to_jinja

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi {{ 1 }}"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
OLD = """{{ if .System }}<|system|>
{{ .System }}<|end|>
{{ end }}{{ if .Prompt }}<|user|>
{{ .Prompt }}<|end|>
{{ end }}<|assistant|>
{{ .Response }}<|end|>
"""
BRANCHES = """{{ if .System }}S:{{ .System }}\\n{{ end }}
{{- range .Messages }}
{{- if eq .Role "user" }}[INST] {{ if and $.System (ne .Content "") }}*{{ end }}{{ .Content }} [/INST]
{{- else if eq .Role "assistant" }} {{ .Content }}</s>
{{- else }}{{/* the system message stands above */}}{{- end }}
{{- end }}"""


def rendered(template: str) -> str:
    # As transformers sets its engine up for chat templates.
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, auto_escape_callback=lambda _: False)
    return environment.render_str(to_jinja(template), messages=TALK)


def test_a_loop_over_messages() -> None:
    assert rendered(CHATML) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi {{ 1 }}<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_older_form_is_rendered_for_each_turn() -> None:
    assert rendered(OLD) == (
        "<|system|>\nBe kind.<|end|>\n<|user|>\nHi {{ 1 }}<|end|>\n<|assistant|>\nHello<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n"
    )


def test_conditions_and_trimming() -> None:
    assert rendered(BRANCHES) == "S:Be kind.\\n[INST] *Hi {{ 1 }} [/INST] Hello</s>[INST] *Bye [/INST]"


@pytest.mark.parametrize(
    "template",
    ["{{ .Tools }}", "{{ range .Messages }}", "{{ end }}", "{{ json .Content }}", "{{ $x := 1 }}", "{{ if }}a{{ end }}",
     "{{ range .Messages }}{{ range .ToolCalls }}{{ end }}{{ end }}", '{{ eq "a }}', "{{ (((( }}",
     "{{ if .System }}" * 100, "a" * 70_000, "{{ .System.__class__ }}", "{{ range $i, $m := .Messages }}{{ end }}"],
)  # fmt: skip
def test_what_is_not_understood_is_said(template: str) -> None:
    with pytest.raises(Untranslatable):
        to_jinja(template)


@given(st.lists(st.sampled_from(["{{", "}}", "{{-", " -}}", "if", "end", "range .Messages", ".System",
                                 ".Content", "(", ")",
                                 '"', "'", "eq", " ", "\n", "{%", "%}", "__class__", "\\", "else", "$", "é", "\x00"]),
                max_size=20).map("".join) | st.text(max_size=30))  # fmt: skip
@settings(max_examples=300)
def test_any_text_becomes_a_template_that_renders_or_a_no(template: str) -> None:
    try:
        jinja = to_jinja(template)
    except Untranslatable:
        return
    minijinja.Environment(auto_escape_callback=lambda _: False).render_str(jinja, messages=TALK)
