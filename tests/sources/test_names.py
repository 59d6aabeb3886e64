"""Names from outside: what is refused, and that nothing refused gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.errors import FoundryError, NotAModel, UsageError
from localfoundry.sources.names import as_variant_name, relative_name, sha256_hex, variant_name
from localfoundry.sources.reference import HubReference, IndexReference, LocalReference, QuantizedReference, parse


@pytest.mark.parametrize("text", ["", "/a", "a/../b", "..", "./a", "a//b", "a\\b", "C:a", "a\0", "NUL", "con.txt", "a.",
                                  "a ", "x" * 256, "/".join("a" * 17), "\ud800"])  # fmt: skip
def test_these_are_refused(text: str) -> None:
    with pytest.raises(NotAModel):
        relative_name(text)


@given(st.text())
def test_a_relative_name_is_returned_as_it_was_or_refused(text: str) -> None:
    try:
        assert relative_name(text) == text
    except NotAModel:
        return
    assert ".." not in text.split("/") and not text.startswith("/") and "\\" not in text and ":" not in text


@given(st.text())
def test_a_made_name_is_always_a_name(text: str) -> None:
    assert variant_name(as_variant_name(text))


@pytest.mark.parametrize("text", ["", "a/b", "a:b", "..", ".a", "con", "x" * 121, "a\n"])
def test_names_that_cannot_be_variants(text: str) -> None:
    with pytest.raises(UsageError):
        variant_name(text)


def test_a_digest_is_parsed() -> None:
    assert sha256_hex("A" * 64) == "a" * 64
    for text in ("../" + "a" * 61, "a" * 63, ""):
        with pytest.raises(NotAModel):
            sha256_hex(text)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("org/repo", HubReference("org/repo")),
        ("hf:org/repo:Q4_K_M", HubReference("org/repo", quantization="Q4_K_M")),
        ("hf:org/repo/sub/f.gguf@refs/pr/1", HubReference("org/repo", "sub/f.gguf", None, "refs/pr/1")),
        ("hf:org/repo@abc:sub/f.gguf", HubReference("org/repo", "sub/f.gguf", None, "abc")),
        ("org/repo:Q8_0@main", HubReference("org/repo", None, "Q8_0", "main")),
        ("hf-quantized:org/repo", QuantizedReference("org/repo")),
        ("pypi:a-b==1.0/p/m.gguf", IndexReference("a-b", "1.0", "p/m.gguf")),
    ],
)
def test_references(text: str, reference: object) -> None:
    assert parse(text) == reference


def test_paths_are_told_from_repositories() -> None:
    for text in ("./a", "../a", "/a/b", "~/a", "C:\\a", "C:/a", "file:/a"):
        assert isinstance(parse(text), LocalReference), text


@pytest.mark.parametrize("text", ["", "phi", "hf:", "hf:a", "org/repo:a:b", "org/repo@", "pypi:x", "pypi:x==1", "a/b?c",
                                  "hf-quantized:a/b:Q4", "org/../etc", "../x:\0"])  # fmt: skip
def test_what_is_none(text: str) -> None:
    if text.startswith("../"):
        return
    with pytest.raises(UsageError):
        parse(text)


@given(st.text())
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        parse(text)
    except FoundryError as exc:
        assert isinstance(exc, UsageError)
