"""The catalog in memory: the built-in models, a person's own on top of them, and what a name stands for.

Decoded straight into the structs of `model`, so that `foundry model list` pays under a millisecond for it. Whether a
model is cached, can run here or can still be had is for others to say. A name that is also an alias means the alias,
so a word never stands for two things; the price is that a variant called like an alias is reached by `name:version`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import InvalidSetting, UnknownModel

Found = tuple[Model, Variant | None]

_BUILT_IN = Path(__file__).with_name("models.json")
# Names become parts of URL paths and of paths on the disk.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}+(?:\n[A-Za-z0-9][A-Za-z0-9._-]{0,127}+)*+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST_QUERY = 128  # a name of any length can arrive over HTTP; comparing it costs its length squared


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[Model, ...]


class Catalog:
    """Every known model, and lookup by any spelling of its name."""

    def __init__(self, models: Iterable[Model], own: Sequence[Model] = ()) -> None:
        """`own` stand before `models` and win: by alias they replace, by any other name they are found first."""
        replaced = {model.alias.lower() for model in own}
        built_in = tuple(model for model in models if model.alias.lower() not in replaced)
        self.models: tuple[Model, ...] = (*own, *built_in)
        self._kinds = (built_in, own)

    @cached_property
    def _by_name(self) -> dict[str, Found]:
        """Made when a name is looked up: a list does without it, which of 100,000 entries is felt."""
        built_in, own = self._kinds
        return {**_index(built_in), **_index(own)}

    @classmethod
    def load(cls, extra: Path | None = None) -> Catalog:
        """The built-in catalog, with the models of the file `extra` on top. Raises InvalidSetting for a bad file."""
        built_in = msgspec.json.decode(_BUILT_IN.read_bytes(), type=_File).models
        return cls(built_in, read_models(extra) if extra is not None else ())

    def find(self, name: str) -> Found | None:
        """What `name` stands for, in any letter case; None where nothing is called that.

        An alias, another name of a model or its source repository give the model and no variant: which one is then a
        question of what can run here. A variant's name (its highest version) or `name:version` give both.
        """
        return self._by_name.get(name.strip().lower())

    def find_all(self, names: Iterable[str]) -> dict[str, Found]:
        """`find` of several names, without those that nothing is called; for once, since it makes no index."""
        asked = {name: name.strip().lower() for name in names}
        wanted = frozenset(asked.values())
        built_in, own = (_index([model for model in kind if not wanted.isdisjoint(_spellings(model))])
                         for kind in self._kinds)  # fmt: skip
        index = {**built_in, **own}
        return {name: index[key] for name, key in asked.items() if key in index}

    def require(self, name: str) -> Found:
        """`find`, or UnknownModel with the nearest names in its hint."""
        found = self.find(name)
        if found is None:
            near = ", ".join(self.nearest(name))
            shown = name if len(name) <= _LONGEST_QUERY else name[:_LONGEST_QUERY] + "…"
            hint = f"did you mean: {near}? See them all: foundry model list" if near else "foundry model list"
            raise UnknownModel(f"no model is called {shown!r}", hint=hint, param="model")
        return found

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """The `count` names most like `name`, best first, one for each model; each of them can be found.

        The alias stands for the model, unless a variant's name is nearer than anything else it is called.
        """
        wanted = _letters(name[:_LONGEST_QUERY])
        scored: list[tuple[float, int, str]] = []
        for model in self.models:
            names = [model.alias, *model.names, *([model.source_repo] if model.source_repo else [])]
            score, shown = max(_likeness(wanted, _letters(n)) for n in names), model.alias
            for variant in model.variants:
                if (likeness := _likeness(wanted, _letters(variant.name))) > score:
                    score, shown = likeness, variant.name
            scored.append((-score, len(shown), shown))
        return [shown for _, _, shown in sorted(scored)[:count]]


def read_models(path: Path) -> tuple[Model, ...]:
    """The models of a catalog file, `{"models": [...]}`. Raises InvalidSetting naming the file and what is wrong."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise InvalidSetting(f"cannot read the catalog file {path}: {exc.strerror}") from exc
    try:
        models = msgspec.json.decode(raw, type=_File).models
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidSetting(
            f"the catalog file {path} cannot be used: {exc}",
            hint='it holds {"models": [{"alias", "tasks", "variants": [{"name", "version", "format", "source"}]}]}',
        ) from exc
    del raw
    problem = None if _sound(models) else next(_problems(models), None)
    if problem:
        raise InvalidSetting(f"the catalog file {path} cannot be used: {problem}")
    return models


def _sound(models: Sequence[Model]) -> bool:
    """Whether `_problems` would find none; several times as fast, for catalogs of 100,000 entries."""
    variants = [variant for model in models for variant in model.variants]
    aliases, names = [model.alias for model in models], [variant.name for variant in variants]
    return (
        _well_formed(aliases)
        and _well_formed(names)
        and all(_SHA256.match(variant.sha256) for variant in variants if variant.sha256 is not None)
        and min((variant.version for variant in variants), default=1) >= 1
        and _distinct(aliases)
        and _distinct([f"{variant.name}:{variant.version}" for variant in variants])
    )


def _well_formed(names: list[str]) -> bool:
    """Whether `_NAME` matches each; in one go over all of them."""
    text = "\n".join(names)
    return not names or (text.count("\n") == len(names) - 1 and _NAMES.match(text) is not None)


def _distinct(names: list[str]) -> bool:
    """Whether no two are the same in lower case; none has a line break."""
    return len(set("\n".join(names).lower().split("\n"))) == len(names) or not names


def _problems(models: Sequence[Model]) -> Iterator[str]:
    aliases: set[str] = set()
    ids: set[str] = set()
    for number, model in enumerate(models):
        where = f"$.models[{number}]"
        if not _NAME.match(model.alias):
            yield f"alias {model.alias!r} holds more than letters, digits, '.', '_' and '-' - at `{where}.alias`"
        if model.alias.lower() in aliases:
            yield f"alias {model.alias!r} is there twice - at `{where}.alias`"
        aliases.add(model.alias.lower())
        for variant in model.variants:
            if not _NAME.match(variant.name):
                yield f"variant name {variant.name!r} holds more than letters, digits, '.', '_' and '-' - at `{where}`"
            if variant.version < 1:
                yield f"version {variant.version} of {variant.name} is less than 1 - at `{where}`"
            if variant.id.lower() in ids:
                yield f"variant {variant.id} is there twice - at `{where}`"
            if variant.sha256 is not None and not _SHA256.match(variant.sha256):
                yield f"sha256 of {variant.id} is not 64 lower-case hexadecimal digits - at `{where}`"
            ids.add(variant.id.lower())


def _spellings(model: Model) -> list[str]:
    """All that it can be found by, in lower case."""
    found = [model.alias, *model.names, *([model.source_repo] if model.source_repo else [])]
    for variant in model.variants:
        found += (variant.name, variant.id)
    return [name.lower() for name in found]


def _index(models: Sequence[Model]) -> dict[str, Found]:
    """Lower-case name to what it means. Filled weakest first, so that of two equal names the stronger kind stays."""
    index: dict[str, Found] = {}
    ordered = models[::-1]  # and of one kind the first in the catalog
    for model in ordered:
        for variant in sorted(model.variants, key=lambda v: v.version):
            index[variant.name.lower()] = (model, variant)
    for model in ordered:
        if model.source_repo:
            index[model.source_repo.lower()] = (model, None)
    for model in ordered:
        index.update((name.lower(), (model, None)) for name in model.names)
    for model in ordered:
        index[model.alias.lower()] = (model, None)
    for model in ordered:
        index.update((variant.id.lower(), (model, variant)) for variant in model.variants)
    return index


def _letters(name: str) -> str:
    """Only letters and digits: people differ in where they put dots and dashes, hardly in the rest."""
    return "".join(c for c in name.lower() if c.isalnum())


def _likeness(wanted: str, candidate: str) -> float:
    """From 0 to 2: the matching share of both, and 1 more where one begins with the other."""
    from difflib import SequenceMatcher  # only a wrong name needs it

    begins = bool(wanted) and bool(candidate) and (candidate.startswith(wanted) or wanted.startswith(candidate))
    return SequenceMatcher(None, candidate, wanted, autojunk=False).ratio() + begins
