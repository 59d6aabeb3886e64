"""The quant cliff: one model's quantizations over the same items, task by task, and which task loses items first.

Pure. Each is set against the one with the most bits, paired by item, with the test of `quality/score.py`; Holm's
correction is over all tasks and quantizations of a model. A task is a suite in all its languages together: what a
quantization takes from a model it takes in each, and more items show a smaller loss. That variants are of one model is
told by their names, as nothing else in a run says it; a file with a name that was made up is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from localfoundry.fit.shape import bits_per_parameter
from localfoundry.quality.results import ItemResult
from localfoundry.quality.score import Difference, difference, holm
from localfoundry.results.rows import CandidateRow
from localfoundry.results.share import Share, share

_VERSION = re.compile(r":\d+$")
_QUANTIZATION = re.compile(r"[-_. ]?(?:i?q\d(?:_[a-z0-9]+)*|mxfp4|bf16|fp?16|f32)\b", re.IGNORECASE)
_KIND = re.compile(r"(?:[-_. ](?:instruct|chat|it|gguf))+$", re.IGNORECASE)

_Item = tuple[str, str]  # language and item


class Step(msgspec.Struct, frozen=True):
    """One quantization; `bits` for each parameter."""

    label: str
    quantization: str
    bits: float


class Solved(msgspec.Struct, frozen=True):
    """Items of a task that one quantization solved; those without an answer count as not solved."""

    task: str
    label: str
    share: Share


class Cliff(msgspec.Struct, frozen=True):
    """`steps` from the most bits, the reference, to the fewest. `losses`: `a` is a step and `b` the reference, so that
    a negative difference is a loss; `suite` is the task and `language` all of its languages."""

    family: str
    steps: tuple[Step, ...]
    solved: tuple[Solved, ...]
    losses: tuple[Difference, ...]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(loss.suite for loss in self.losses))

    @property
    def first(self) -> list[Difference]:
        """The losses that are shown at the first step on which there are any, the largest first."""
        for step in self.steps[1:]:
            found = [loss for loss in self.losses if loss.a == step.label and is_loss(loss)]
            if found:
                return sorted(found, key=lambda loss: loss.difference)
        return []

    def quantization(self, label: str) -> str:
        return next(step.quantization for step in self.steps if step.label == label)


def is_loss(loss: Difference) -> bool:
    """Whether it is shown that items are lost."""
    return loss.shown and loss.difference < 0


def cliffs(rows: Mapping[str, CandidateRow], items: Sequence[ItemResult]) -> list[Cliff]:
    """One for each model of which several quantizations were asked the same items."""
    families: dict[str, list[Step]] = {}
    for label in dict.fromkeys(result.model for result in items):
        row = rows.get(label)
        bits = bits_per_parameter(row.quantization) if row else None
        if row is not None and row.quantization and bits is not None:
            families.setdefault(family_of(row), []).append(Step(label, row.quantization, bits))
    found = (_cliff(family, steps, items) for family, steps in families.items())
    return [cliff for cliff in found if cliff is not None]


def family_of(row: CandidateRow) -> str:
    """The model's name without version, quantization and kind: of `smollm2-135m-instruct-q4_1:1` `smollm2-135m`."""
    name = _VERSION.sub("", row.model_id or row.model).lower()
    return _KIND.sub("", _QUANTIZATION.sub("", name))


def _cliff(family: str, steps: Sequence[Step], items: Sequence[ItemResult]) -> Cliff | None:
    ordered = sorted(steps, key=lambda step: (-step.bits, step.label))
    if len({step.quantization for step in ordered}) < 2:
        return None
    labels = [step.label for step in ordered]
    tasks: dict[str, dict[str, dict[_Item, ItemResult]]] = {}
    for result in items:
        if result.model in labels:
            of_task = tasks.setdefault(result.suite, {})
            of_task.setdefault(result.model, {})[result.language, result.item] = result
    pairs = (
        _loss(task, label, labels[0], of_task.get(label, {}), of_task.get(labels[0], {}))
        for task, of_task in tasks.items()
        for label in labels[1:]
    )
    losses = [pair for pair in pairs if pair is not None]
    if not losses:
        return None
    adjusted = holm([loss.p for loss in losses])
    return Cliff(
        family,
        tuple(ordered),
        tuple(
            Solved(task, label, share(sum(r.passed for r in of_task[label].values()), len(of_task[label])))
            for task, of_task in tasks.items()
            for label in labels
            if label in of_task
        ),
        tuple(msgspec.structs.replace(loss, adjusted_p=p) for loss, p in zip(losses, adjusted, strict=True)),
    )


def _loss(
    task: str,
    label: str,
    reference: str,
    of_label: Mapping[_Item, ItemResult],
    of_reference: Mapping[_Item, ItemResult],
) -> Difference | None:
    mine, best = (
        {item: result.passed for item, result in found.items() if result.error is None}
        for found in (of_label, of_reference)
    )
    languages = ", ".join(sorted({language for language, _ in mine.keys() & best.keys()}))
    return difference(label, reference, task, languages, mine, best)


def sentences(cliff: Cliff) -> list[str]:
    """Which task loses first, and how much the others may have lost unseen."""
    reference, last = cliff.steps[0], cliff.steps[-1]
    found = [
        f"{cliff.family} {'loses items first' if place == 0 else 'also loses items'} in {loss.suite}: "
        f"{cliff.quantization(loss.a)} against {reference.quantization} {size(loss)}."
        for place, loss in enumerate(cliff.first)
    ]
    rest = [task for task in cliff.tasks if not any(is_loss(loss) for loss in cliff.losses if loss.suite == task)]
    if rest:
        worst = max((loss for loss in cliff.losses if loss.suite in rest), key=lambda loss: -loss.interval.low)
        which = "No task" if len(rest) == len(cliff.tasks) else f"Of {' and '.join(rest)} none"
        found.append(
            f"{which} is shown to lose items from {reference.quantization} down to {last.quantization}; up to "
            f"{max(-worst.interval.low, 0):.0%} of the items may be lost unseen, in {worst.suite} at "
            f"{cliff.quantization(worst.a)} (n = {worst.n})."
        )
    return found


def size(loss: Difference) -> str:
    """With its counts and interval."""
    return (
        f"{loss.difference:+.0%} of {loss.n} items ({loss.only_b} lost, {loss.only_a} won, 95 % "
        f"{loss.interval.low:+.0%} to {loss.interval.high:+.0%}, p = {loss.adjusted_p:.2g})"
    )
