"""What is taken out of a bundle, net by net."""

from __future__ import annotations

import pytest

from localfoundry.cli.redact import LEFT_OUT, REMOVED, Redactor, is_secret_name, secrets_in

NOTHING = Redactor([], {})


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRETSECRET",
        'headers={"Authorization": "Basic SECRETSECRET"}',
        "authorization=SECRETSECRET",
        "curl -H 'x-api-key: SECRETSECRET'",
        "GET https://user:SECRETSECRET@proxy.example:8080/path",
        "socks5://SECRETSECRET@proxy.example",
        "https://cdn.example/file?X-Amz-Signature=SECRETSECRET&x=1",
        "https://hub.example/x?token=SECRETSECRET",
        "HF_TOKEN=hf_SECRETSECRET",
        "used hf_SECRETSECRET to log in",
        "key sk-SECRETSECRET was refused",
        "key lf_SECRETSECRET was refused",
        "eyJSECRETSECRET.eyJSECRETSECRET.SECRETSECRET",
        "password = SECRETSECRET",
        '"api_key": "SECRETSECRET"',
        "client_secret: 'SECRETSECRET'",
        "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\nSECRETSECRET\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\ncut off",
        "Set-Cookie: session=SECRETSECRET; Path=/",
    ],
)
def test_forms_that_secrets_have(text: str) -> None:
    cleaned = NOTHING.text(text)
    assert "SECRETSECRET" not in cleaned
    assert REMOVED in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "0.00.968.298 I slot   operator(): id  7 | task 0 | new prompt, n_ctx_slot = 8192, task.n_tokens = 39",
        "load: special_eos_id is not in special_eog_ids",
        "print_info: EOS token             = 2",
        "loaded phi-4-mini:1 with llama.cpp in 0.57 s",
        "max_tokens: 50, tokens_per_s=1.5",
        "http://127.0.0.1:8000/v1/chat/completions",
        "localfoundry 0.1.0 listens on http://127.0.0.1:8000, models in /data/models",
    ],
)
def test_what_a_report_is_for_stays(text: str) -> None:
    assert NOTHING.log(text) == text


def test_known_values_go_wherever_they_turn_up() -> None:
    redactor = Redactor(["correct horse", "s3cr3t"], {})
    assert redactor.text("a s3cr3t, and correct horse battery") == f"a {REMOVED}, and {REMOVED} battery"


@pytest.mark.parametrize(
    "line",
    ['srv: request: {"messages":[{"role":"user","content":"my diary"}]}', "{'prompt': 'my diary'}",
     "<|im_start|>user my diary", '{\\"content\\": \\"my diary\\"}'],
)  # fmt: skip
def test_lines_with_the_text_of_a_request_are_left_out(line: str) -> None:
    assert NOTHING.log(f"before\n{line}\nafter\n") == f"before\n{LEFT_OUT}\nafter\n"


def test_names_and_the_home_folder() -> None:
    redactor = Redactor([], {"jane": "[user]", "/home/jane": "~", "jane-laptop": "[host]"})
    assert redactor.text("/home/jane/.localfoundry") == "~/.localfoundry"
    assert redactor.text("/data/jane/models on jane-laptop") == "/data/[user]/models on [host]"
    assert redactor.text("janet and /home/janet") == "janet and /home/janet"


def test_json_by_the_names_of_its_keys() -> None:
    document = {"apiKey": "abc", "list": [{"hf_token": "x"}], "max_tokens": 5, "empty_token": "", "kind": "chat"}
    assert NOTHING.value(document) == {
        "apiKey": REMOVED, "list": [{"hf_token": REMOVED}], "max_tokens": 5, "empty_token": "", "kind": "chat",
    }  # fmt: skip


def test_secrets_of_an_environment() -> None:
    environment = {
        "HF_TOKEN": "hf_abcdef", "AWS_SECRET_ACCESS_KEY": "aws-value", "PGPASSWORD": "pg-value", "PWD": "/work",
        "HTTPS_PROXY": "http://me:p%40ss%20word@proxy:80", "PATH": "/usr/bin", "OTEL_HEADERS_AUTH": "Bearer longvalue",
    }  # fmt: skip
    assert secrets_in(environment) == {
        "hf_abcdef", "aws-value", "pg-value", "p%40ss%20word", "p@ss word", "Bearer longvalue", "longvalue",
    }  # fmt: skip


def test_a_broken_address_is_no_secret_and_no_error() -> None:
    assert secrets_in({"X": "http://[broken"}) == set()
    assert is_secret_name("OPENAI_API_KEY")
    assert not is_secret_name("FOUNDRY_HOME")
