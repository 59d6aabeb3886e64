"""What is known of how good a model's answers are: measured here, measured by others, or only declared.

A measured score has an interval and a number of items, and is worth comparing with others of the same suite only. A
declaration has neither: somebody says that a model is a good choice. It orders a list, and it proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from localfoundry.catalog.guide import Guide
from localfoundry.catalog.lookup import Catalog

Source = Literal["measured here", "measured by others", "declared"]
Role = Literal["start", "upgrade", "advanced", "alternative", "budget"]

_WITH_A_SUITE = frozenset({"chat", "code", "reasoning"})  # tasks that a pack of `foundry eval` is called like

_TRUST: dict[Source, int] = {"measured here": 0, "measured by others": 1, "declared": 2}
_ORDER: dict[Role, int] = {"advanced": 0, "upgrade": 1, "start": 2, "alternative": 3, "budget": 4}
_SAYS: dict[Role, str] = {
    "advanced": "its advanced choice", "upgrade": "its upgrade", "start": "where to begin",
    "alternative": "its alternative", "budget": "its choice for little memory",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Of one model, or one variant of it (`variant` is its id), at one task.

    `score`, with its interval from `low` to `high`, is the share of `n` items of `suite` that were solved, 0 to 1;
    all of that is there where it was measured, and none of it where it is declared: then there are a role and by whom.
    `language` None: not of one language. `content`: the hash of what the suite asked, None where it is not known.
    `engine`: what ran the model then; of several scores of one source the last one that is told counts.
    """

    alias: str
    task: str
    source: Source
    variant: str | None = None
    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    suite: str = ""
    language: str | None = None
    content: str | None = None
    engine: str | None = None
    role: Role | None = None
    by: str = ""

    def __post_init__(self) -> None:
        if self.source == "declared":
            assert self.score is None and self.role is not None
        else:
            assert self.score is not None and self.low is not None and self.high is not None
            assert 0 <= self.low <= self.score <= self.high <= 1 and self.n > 0

    @property
    def asked(self) -> tuple[str, str | None, str | None]:
        """Scores with the same of these compare."""
        return self.suite, self.language, self.content

    @property
    def corner(self) -> tuple[float, float] | None:
        """Low and high end of the score; None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def words(self) -> str:
        if self.score is None or self.low is None or self.high is None:
            return f"{_SAYS[self.role or 'start']} for {self.task}, declared by {self.by}"
        suite = f" of {self.suite}" if self.suite else ""
        language = f" in {self.language}" if self.language else ""
        by = f" with {self.engine}" if self.engine else ""
        figures = f"{self.score:.2f} ({self.low:.2f} to {self.high:.2f}, {self.n} items{suite})"
        return f"{figures}, {self.source}{language}{by}"

    @property
    def short(self) -> str:
        """For a cell of a table."""
        return f"{self.role}, declared" if self.score is None else f"{self.score:.2f}, {self.source}"


def find_out(task: str, models: Iterable[str], *, measured: bool) -> str:
    """The command that helps to tell which of two models answers better.

    Where both were `measured` with one suite its items have said what they can, and people's votes say more.
    """
    named = " ".join(models)
    if measured:
        return f"foundry rate {named}"
    return f"foundry eval {named} --suite {task}" if task in _WITH_A_SUITE else f"foundry bench {named}"


def order(evidence: Evidence | None) -> tuple[int, float]:
    """Sorts the best evidence first: scores from the highest, then roles, then nothing."""
    if evidence is None:
        return 2, 0.0
    if evidence.score is not None:
        return 0, -evidence.score
    return 1, float(_ORDER[evidence.role or "start"])


def declared(guide: Guide, catalog: Catalog) -> list[Evidence]:
    """What the guide says, for the models that its names stand for in the catalog; others are passed over."""
    found = []
    entries = catalog.find_all(choice.model for task in guide.tasks for choice in task.choices)
    for task in guide.tasks:
        for choice in task.choices:
            entry = entries.get(choice.model)
            if entry is not None:
                variant = entry[1].id if entry[1] else None
                found.append(Evidence(alias=entry[0].alias, variant=variant, task=task.task, source="declared",
                                      role=choice.role, by="the course's guide"))  # fmt: skip
    return found


class Known:
    """Evidence for one task, and one language where that is asked for, looked up by model."""

    def __init__(self, evidence: Iterable[Evidence], task: str, language: str | None = None) -> None:
        """A language counts only measurements in it; a declaration is of none."""
        fitting = [e for e in evidence if e.task == task and language in (None, e.language)]
        widest = _widest(fitting, task)
        counted = [e for e in fitting if e.score is None or e.asked == widest]
        self._found: Mapping[str, Evidence] = {
            e.variant or e.alias: e for e in sorted(counted, key=lambda e: _TRUST[e.source], reverse=True)
        }

    def of(self, alias: str, variant: str) -> Evidence | None:
        """The best there is; that of the very variant before that of its model."""
        own, family = self._found.get(variant), self._found.get(alias)
        both = [e for e in (own, family) if e is not None]
        return min(both, key=lambda e: _TRUST[e.source], default=None)


def _widest(evidence: list[Evidence], task: str) -> tuple[str, str | None, str | None] | None:
    """The suite, its language and content that most models were measured with: scores of different ones do not compare.

    Among equals the suite that is called like the task, then the one with the most items.
    """
    found: dict[tuple[str, str | None, str | None], list[Evidence]] = {}
    for e in evidence:
        if e.score is not None:
            found.setdefault(e.asked, []).append(e)

    def rank(key: tuple[str, str | None, str | None]) -> tuple[object, ...]:
        models = {e.variant or e.alias for e in found[key]}
        return -len(models), key[0] != task, -sum(e.n for e in found[key]), key[0], key[1] or "", key[2] or ""

    return min(found, key=rank, default=None)
