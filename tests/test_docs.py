"""The documentation keeps up: generated pages match the code, links lead somewhere, named tests exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("samples/*.md")])


def _build_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "settings.md", "errors.md"])
def test_generated_pages_match_the_code(name: str) -> None:
    """A command, a setting or an error that is not documented fails here. The mend: make docs."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == _build_docs().pages()[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tests_named_in_the_documentation_exist() -> None:
    """docs/behaviour.md and docs/security.md name the test of each promise as `file::test`."""
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in ("behaviour.md", "security.md")]
    named = [found for page in pages for found in re.findall(r"`([\w/]+\.py)::(\w+)`", page)]
    assert len(named) > 50
    for file, test in named:
        source = ROOT / "tests" / file
        assert source.exists(), f"there is no tests/{file}"
        assert re.search(rf"def {test}\b", source.read_text("utf-8")), f"tests/{file} has no {test}"


def test_every_module_is_in_the_structure() -> None:
    """docs/structure.md has a place for every module, so that a newcomer finds each."""
    structure = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "localfoundry"
    for module in package.rglob("*.py"):
        if module.name not in ("__init__.py", "__main__.py"):
            assert module.name in structure, f"{module.relative_to(package)} is not in docs/structure.md"
