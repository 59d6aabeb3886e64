"""Which models a list shows, and which variant of a model is meant when only its alias is given.

Pure: models in, models out. A model is shown with those of its variants that pass; one with none left is not shown.
What runs on this machine is told to these functions, they do not look.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import msgspec

from localfoundry.catalog.foundry import foundry_task
from localfoundry.catalog.model import Model, Variant
from localfoundry.errors import UsageError

FILTER_KEYS = ("device", "provider", "task", "alias")
_PROVIDER_SUFFIX = "executionprovider"
_GENERIC_PROVIDERS = {"cpuexecutionprovider", "webgpuexecutionprovider"}


class Filter(msgspec.Struct, frozen=True):
    """One `key=value` of `--filter`, lower-case; `negated` where the value began with `!`."""

    key: str
    value: str
    negated: bool = False

    def passes(self, model: Model, variant: Variant) -> bool:
        return self._holds(model, variant) != self.negated

    def _holds(self, model: Model, variant: Variant) -> bool:
        match self.key:
            case "device":
                return variant.device.lower() == self.value
            case "provider":
                provider = variant.execution_provider.lower()
                return self.value in (provider, provider.removesuffix(_PROVIDER_SUFFIX))
            case "task":
                return has_task(model, self.value)
            case _:
                alias = model.alias.lower()
                return alias.startswith(self.value[:-1]) if self.value.endswith("*") else alias == self.value


def parse_filter(text: str) -> Filter:
    """`device=GPU`, `device=!GPU`, `alias=phi*`. Raises UsageError naming the keys there are."""
    accepted = f"--filter takes key=value with one of the keys {', '.join(FILTER_KEYS)}; ! before the value negates"
    key, equals, value = (part.strip().lower() for part in text.partition("="))
    if not equals:
        raise UsageError(f"the filter {text!r} has no '='", hint=accepted)
    if key not in FILTER_KEYS:
        raise UsageError(f"unknown filter key {key!r}; the keys are {', '.join(FILTER_KEYS)}", hint=accepted)
    negated, value = value.startswith("!"), value.removeprefix("!").strip()
    if not value:
        raise UsageError(f"the filter {text!r} has no value", hint=accepted)
    if "*" in value.removesuffix("*") or (value.endswith("*") and key != "alias"):
        raise UsageError(f"the filter {text!r} has a '*' that is not at the end of an alias", hint=accepted)
    return Filter(key, value, negated)


def select(
    models: Iterable[Model],
    filters: Sequence[Filter] = (),
    *,
    text: str | None = None,
    task: str | None = None,
    device: str | None = None,
    license: str | None = None,
    max_size_bytes: int | None = None,
) -> tuple[Model, ...]:
    """The models that pass everything asked for, each with only those of its variants that do.

    `max_size_bytes`: a variant of unknown size does not pass. `text`: see `matches_text`.
    """
    wanted = list(filters)
    wanted += [Filter("task", task.strip().lower())] if task else []
    wanted += [Filter("device", device.strip().lower())] if device else []

    if not wanted and license is None and max_size_bytes is None:
        return tuple(model for model in models if model.variants and (text is None or matches_text(model, text)))

    def passes(model: Model, variant: Variant) -> bool:
        if license is not None and (variant.license or model.license or "").lower() != license.strip().lower():
            return False
        if max_size_bytes is not None and (variant.size_bytes is None or variant.size_bytes > max_size_bytes):
            return False
        return all(f.passes(model, variant) for f in wanted)

    shown = []
    for model in models:
        if text is not None and not matches_text(model, text):
            continue
        variants = tuple(v for v in model.variants if passes(model, v))
        if len(variants) == len(model.variants) and variants:
            shown.append(model)
        elif variants:
            shown.append(msgspec.structs.replace(model, variants=variants))
    return tuple(shown)


def search(models: Iterable[Model], text: str) -> tuple[Model, ...]:
    """Models that hold every word of `text`, those whose alias or name begins with it first."""
    found = [model for model in models if matches_text(model, text)]
    begin = text.strip().lower()
    return tuple(sorted(found, key=lambda m: not any(n.lower().startswith(begin) for n in (m.alias, *m.names))))


def matches_text(model: Model, text: str) -> bool:
    """Whether every word of `text` is part of an alias, a name, the publisher, a task or a variant's name."""
    facts = [model.alias, *model.names, model.source_repo or "", model.publisher or "", *model.tasks]
    facts += [variant.name for variant in model.variants]
    there = "\n".join(facts).lower()
    return all(word in there for word in text.lower().split())


def has_task(model: Model, task: str) -> bool:
    """`chat`, `code`, …, or the word that Foundry Local uses, `chat-completion`."""
    return task.lower() in model.tasks or task.lower() == foundry_task(model)


def preferred_variant(
    model: Model, runnable_formats: Container[str], devices: Container[str] = ("CPU", "GPU", "NPU")
) -> Variant | None:
    """What the alias stands for here: NPU, vendor GPU, generic GPU, vendor CPU, generic CPU, then catalog order.

    None where nothing has a format and a device that can run. A variant without a source can be the answer: it may
    already be on this disk.
    """
    runnable = [v for v in model.variants if v.format in runnable_formats and v.device in devices]
    if len(runnable) == 1:
        return runnable[0]
    return min(runnable, key=_rank, default=None)  # min keeps the first of equals: catalog order


def _rank(variant: Variant) -> int:
    generic = variant.execution_provider.lower() in _GENERIC_PROVIDERS
    match variant.device:
        case "NPU":
            return 0
        case "GPU":
            return 2 if generic else 1
        case _:
            return 4 if generic else 3
