"""Chat templates: golden families, the symptoms of a wrong one, hostile ones, and agreement with the real engine.

Templates here are written for these tests, in the ways that families write them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.gguf_file import ARRAY, STRING, Typed, tiny_llama
from harness import Foundry
from localfoundry import config
from localfoundry.engines.base import LoadRequest
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.formats import render
from localfoundry.formats.families import FAMILIES, family_of
from localfoundry.formats.render import Case, Rendering, render_all
from localfoundry.formats.summary import of_path
from localfoundry.formats.template import ANSWER, SECOND, USER, TemplateCheck, check, golden_cases, judge
from localfoundry.service import upstream
from localfoundry.service.process import Worker, new_endpoint
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store


def loop(turn: str, prompt: str, before: str = "") -> str:
    body = "{% for m in messages %}" + turn + "{% endfor %}"
    return f"{before}{body}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


CHATML = loop("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n")
LLAMA3 = loop(
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{{ bos_token }}",
)
GEMMA = loop(
    "{% set role = 'model' if m.role == 'assistant' else m.role %}<start_of_turn>{{ role }}\n"
    "{{ m.content }}<end_of_turn>\n",
    "<start_of_turn>model\n",
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
)
PHI3 = loop("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n")
PHI4_MINI = loop("<|{{ m.role }}|>{{ m.content }}<|end|>", "<|assistant|>")
PHI4 = loop("<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>", "<|im_start|>assistant<|im_sep|>")
DEEPSEEK = loop(
    "{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>"
    "{% else %}{{ m.content }}{% endif %}",
    "<｜Assistant｜>",
)
MISTRAL = loop(
    "{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}",
    "",
)
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    + loop(
        "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
        "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>{% endfor %}"
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    )
)


@pytest.mark.parametrize(
    ("template", "eos", "words"),
    [
        (CHATML, "<|im_end|>", "ok, ChatML, stops at <|im_end|>, no tools"),
        (LLAMA3, "<|eot_id|>", "ok, Llama 3, stops at <|eot_id|>, no tools"),
        (GEMMA, "<eos>", "ok, Gemma, stops at <end_of_turn>, no system messages, no tools"),
        (PHI3, "<|end|>", "ok, Phi-3, stops at <|end|>, no tools"),
        (PHI4_MINI, "<|end|>", "ok, Phi-3, stops at <|end|>, no tools"),
        (PHI4, "<|im_end|>", "ok, Phi-4, stops at <|im_end|>, no tools"),
        (DEEPSEEK, "<｜end▁of▁sentence｜>", "ok, DeepSeek, stops at <｜end▁of▁sentence｜>, no tools"),
        (MISTRAL, "</s>", "ok, Mistral, stops at </s>, no tools"),
        (TOOLS, "<|im_end|>", "ok, ChatML, stops at <|im_end|>, tools"),
        (TOOLS.replace("{% if tools %}", "{% if tools | length > 0 %}"), "<|im_end|>",
         "ok, ChatML, stops at <|im_end|>, tools"),
        (CHATML.replace("{% for", "{% generation %}{% for") + "{% endgeneration %}", "<|im_end|>",
         "ok, ChatML, stops at <|im_end|>, no tools"),
    ],
)  # fmt: skip
def test_families_as_models_know_them(template: str, eos: str, words: str) -> None:
    found = check(template, tokens={"bos": "<s>", "eos": eos})
    assert (found.words(), found.warnings) == (words, ())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (loop("{{ m.content }}", ""), "nothing marks who speaks"),
        (loop("{{ m.content }}", "assistant:"), "nothing marks who speaks"),
        ("<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n", "a message is lost"),
        (loop("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", ""), "prompt for an answer is missing"),
        (CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"),
         "system message is dropped in silence"),
        (CHATML.replace("\n{{ m.content", "{{ m.content"), "not ChatML as models know it"),
        (LLAMA3.replace("\n\n", "\n"), "not Llama 3 as models know it"),
        (loop("{{ m.nothing.at.all }}", ""), "does not render"),
        ("{% if", "does not render"),
        (CHATML.replace("m.content", "m.content if m.role == 'user' else m.content.missing()"), "second turn"),
        (TOOLS.replace("m.tool_calls or []", "[]"), "a tool is rendered without the call"),
        (TOOLS.replace("t.function | tojson", "tools.missing()"), "with a tool does not render"),
    ],
)  # fmt: skip
def test_the_symptoms_of_a_wrong_template_are_named(template: str, reason: str) -> None:
    found = check(template, tokens={"eos": "<|im_end|>"})
    assert not found.ok
    assert any(reason in warning for warning in found.warnings), found.warnings


def test_another_models_template_is_found_out_by_the_vocabulary() -> None:
    found = check(LLAMA3, tokens={"bos": "<s>", "eos": "</s>"}, vocabulary={"<s>", "</s>", "hello"})
    assert "<|start_header_id|>" in found.warnings[0] and "another model's" in found.warnings[0]


def test_turns_that_end_otherwise_than_the_model() -> None:
    found = check(loop("<{{ m.role }}> {{ m.content }} <|stop-here|>\n", "<assistant>"), tokens={"eos": "</s>"})
    assert found.warnings == ("it ends a turn with <|stop-here|>, and the model stops at </s>: answers may run on",)


def test_no_template_at_all() -> None:
    assert check(None) == TemplateCheck(False)
    assert check(None).words() == "none in the file"


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.spellings], ids=lambda f: f.name)
def test_golden_renderings_are_recognised_as_their_own_family(family: object) -> None:
    for spelling in family.spellings:  # type: ignore[attr-defined]
        text = spelling.conversation(USER, ANSWER, SECOND)
        assert family_of(text) is family
        whole = Rendering(text)
        one = Rendering(spelling.conversation(USER))
        system = Rendering(None, "no system", refused=True)
        given_ = {"user": one, "unprompted": Rendering(""), "turns": whole, "system": system}
        assert judge(given_, tokens={}, vocabulary=None).warnings == ()


ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set n = namespace(x='xxxxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)


@pytest.mark.parametrize(
    "template",
    [
        ENDLESS,
        GROWING,
        "{{ 'x' * 4000000000 }}",
        "{{ 'x' * 10000000 }}",
        "{{ '%999999999d' | format(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% include '/etc/passwd' %}",
        "{{ lipsum.__globals__.os.system('true') }}",
    ],
)
def test_a_hostile_template_is_ended(template: str) -> None:
    """It costs at most the deadline, and the check says what happened."""
    began = time.monotonic()
    found = check(template)
    assert time.monotonic() - began < render.DEADLINE_S + 5
    assert not found.ok and "does not render" in found.warnings[0]


@pytest.mark.parametrize(
    "template",
    ["{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ self.__init__ }}",
     "{{ raise_exception.__globals__ }}", "{{ strftime_now.__globals__['os'].environ }}"],
)  # fmt: skip
def test_a_template_reaches_nothing_of_python(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = render_all(template, [Case("user", [{"role": "user", "content": "Hi"}])])["user"]
    assert "class" not in (found.text or "") and "secret" not in (found.text or "")


@given(st.text(max_size=60), st.sampled_from(["", "{{ ", "{% ", "{{ messages | ", "{% for m in messages %}{{ m"]))
def test_any_renderings_are_judged(text: str, start: str) -> None:
    """The judgement is pure and holds for any text that may come out."""
    rendering = Rendering(start + text + USER + ANSWER + SECOND)
    found = judge(dict.fromkeys(("user", "unprompted", "turns", "system"), rendering), tokens={}, vocabulary=None)
    assert found.words()


def test_the_check_is_kept_and_shown(foundry: Foundry, tmp_path: Path) -> None:
    """A file with a wrong template is pulled all the same; the person is told, then and later."""
    tokens = Typed(ARRAY, (STRING, ["<s>", "</s>", "hello"]))
    changes = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__eos_token_id": 1}
    (tmp_path / "wrong.gguf").write_bytes(tiny_llama(tokenizer__chat_template=LLAMA3, **changes))
    pulled = foundry.ok("model", "download", str(tmp_path / "wrong.gguf"))
    assert "warning: the chat template: <|start_header_id|>" in pulled.err
    shown = foundry.ok("model", "info", "wrong")
    assert "Template:      1 warning, Llama 3" in shown.out
    assert "    warning: <|start_header_id|>" in shown.out
    document = foundry.ok("model", "info", "wrong", "--json").json
    assert document["template"]["family"] == "Llama 3"
    assert len(document["template"]["warnings"]) == 1


@pytest.mark.real_model
def test_the_starter_models_own_template_is_ok(starter: Manifest) -> None:
    found = of_path(Store(config.load().models_dir).main_file(starter))
    assert found.template is not None
    assert found.template.words() == "ok, ChatML, stops at <|im_end|>, no tools"
    assert found.template.warnings == ()


@pytest.mark.real_model
async def test_renderings_agree_with_the_real_engine(starter: Manifest, tmp_path: Path) -> None:
    """What is judged must be what the model is given: the engine renders the same conversations itself."""
    settings = config.load()
    path = Store(settings.models_dir).main_file(starter)
    template = of_path(path).chat_template
    assert template is not None
    cases = [case for case in golden_cases(template) if case.generate]
    ours = render_all(template, cases)
    endpoint = new_endpoint(tmp_path)
    command = LlamaCpp().command(LoadRequest(starter.id, path, endpoint, 512, 1, ("chat",)), settings)
    worker = await Worker.start(command, endpoint, tmp_path / "worker.log")
    try:
        await worker.wait_ready(60)
        assert len(cases) >= 3
        for case in cases:
            body = json.dumps({"messages": case.messages}).encode()
            response = await upstream.request(endpoint, "POST", "/apply-template", body=body)
            prompt = msgspec.json.decode(await response.body(10**6))["prompt"]
            response.close()
            assert prompt == ours[case.name].text, case.name
    finally:
        await worker.stop(5)
