"""Tries a suite on its own key: the reference answer of each item has to pass its checks, each wrong one has to fail.

What it finds are faults of the suite. Blocking, and it runs the Python of the key in the sandbox.
"""

from __future__ import annotations

from localfoundry.errors import InvalidSuite
from localfoundry.quality import checks
from localfoundry.quality.reply import Reply
from localfoundry.quality.suite import Item, KeyCalls, Suite


def faults(suite: Suite) -> list[str]:
    """A line for everything that is wrong; empty where the key fits."""
    return [f"{item.id}: {fault}" for item in suite.items for fault in item_faults(item)]


def item_faults(item: Item) -> list[str]:
    """As `faults`, for one item."""
    found = []
    try:
        if item.answer is None:
            found.append("it has no reference answer")
        elif reasons := checks.failures(item, reply(item.answer)):
            found.append(f"the reference answer fails: {'; '.join(reasons)}")
        if not item.wrong:
            found.append("it has no wrong answer, so nothing shows that its checks can fail")
        for number, wrong in enumerate(item.wrong, 1):
            if not checks.failures(item, reply(wrong)):
                found.append(f"wrong answer {number} passes")
    except InvalidSuite as exc:
        found.append(exc.message)
    return found


def reply(answer: str | KeyCalls) -> Reply:
    if isinstance(answer, str):
        return Reply(answer)
    return Reply(answer.text, tuple(answer.calls))
