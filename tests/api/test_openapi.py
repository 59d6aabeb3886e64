"""The API against its own document: everything is in it, and whatever is sent, the answer is as it says."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from typing import Any, cast

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.server import Server
from localfoundry.api import app, openapi
from localfoundry.api.counters import Counters
from localfoundry.service.service import Service

_EXAMPLES = int(os.environ.get("FOUNDRY_FUZZ_EXAMPLES", "20"))  # fuzz/api.py sets it, for a longer run
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
_KEPT_OUT = ("/shutdown",)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service without a network, with a fast fake model named `m`."""
    made = Server(tmp_path_factory.mktemp("home"), FOUNDRY_CONTEXT_LENGTH=256, FOUNDRY_OFFLINE=1)
    made.fake("m", tokens_per_second=100_000)
    yield made.start()
    made.stop()


def test_every_route_is_in_the_document() -> None:
    routes = app.routes(cast("Service", None), lambda: None, Counters())
    there = {(m, re.sub(r":\w+}", "}", r.path)) for r in routes for m in r.methods or () if m != "HEAD"}
    assert there == set(openapi.TABLE)


def test_the_document_is_served(server: Server) -> None:
    assert server.get("/openapi.json") == openapi.document()


def _operations() -> list[tuple[str, str]]:
    return [key for key in openapi.TABLE if key[1] not in _KEPT_OUT]


def _with_names(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the name of a model that is there wherever a model is named."""
    name = {"type": "string", "enum": ["m"]}
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = name
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "name":
                    parameter["schema"] = name
    return document


def _can_be_wrong(described: dict[str, Any]) -> bool:
    """Whether there is anything that a wrong value can be made for: not in a path, where any text is right."""
    return "requestBody" in described or any(one["in"] == "query" for one in described["parameters"])


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize(("method", "path"), _operations(), ids=lambda part: part)
def test_whatever_is_sent_the_answer_is_as_documented(
    fuzzed: Server, method: str, path: str, mode: GenerationMode
) -> None:
    """No 500, no answer of another shape, every error in the shape of an error."""
    document = _with_names(copy.deepcopy(openapi.document()))
    described = document["paths"][path][method.lower()]
    if mode is GenerationMode.NEGATIVE and not _can_be_wrong(described):
        return
    operation = schemathesis.openapi.from_dict(document)[path][method]
    statuses = set()

    @hypothesis.settings(
        max_examples=_EXAMPLES, derandomize="FOUNDRY_FUZZ_EXAMPLES" not in os.environ, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate(base_url=fuzzed.url, checks=_CHECKS, timeout=20).status_code)

    send()
    if path != "/openai/download":  # knows only models of the catalog, and would fetch them
        assert (200 in statuses) or mode is GenerationMode.NEGATIVE, "nothing that was sent was right"
    assert statuses, "nothing was sent"
    assert fuzzed.get("/health")["status"] == "ok"
