"""`foundry bench check`: has it become worse than the baseline? For scripts: the answer is the exit status.

0   no change for the worse is shown
1   one is, or a model that gave results gives none any more
7   too noisy, or too few rounds, to conclude; a number that no error of this product has
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from localfoundry.cli import context, output
from localfoundry.cli.bench_runs import plain_changes, read, short, show_changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localfoundry.bench.history import Change
    from localfoundry.bench.outcome import Measurement

WORSE = 1
TOO_NOISY = 7
_OPEN = ("too noisy to conclude", "not enough runs")


@click.command()
@click.option("--baseline", "name", required=True, help="The baseline, or any run.")
@click.option("--run", "measured", metavar="RUN", help="Check this run instead of measuring the same plan again.")
@click.option("--margin", type=click.FloatRange(0, 10), default=0.10, show_default=True,
              help="A change counts when its whole interval is beyond this: 0.1 is 10 %.")  # fmt: skip
@context.json_option
def check(name: str, measured: str | None, margin: float, as_json: bool) -> int:
    """Measure the baseline's plan again; exit 1 where a change for the worse is shown, 7 where noise hides it."""
    from localfoundry.bench import history

    base, before = read(name)
    if measured is not None:
        run, after = read(measured)
        checked: str | None = run.id
    else:
        after, checked = _again(before, quiet=as_json)
    if after.interrupted:
        output.note("the measurement was interrupted; nothing is concluded")
        return 130
    changes, missing = history.changes(before, after, margin), history.missing(before, after)
    code = verdict(changes, missing)
    if as_json:
        output.document({
            "baseline": base.id, "run": checked, "margin": margin, "verdict": _WORDS[code], "missing": missing,
            "changes": plain_changes(changes),
        })  # fmt: skip
        return code
    show_changes(changes)
    for words in missing:
        output.data(words)
    output.data(f"{_WORDS[code]} (baseline {short(base.id)}, margin {margin:.0%})")
    return code


_WORDS = {0: "no change for the worse is shown", WORSE: "worse", TOO_NOISY: "too noisy to conclude"}


def verdict(changes: Sequence[Change], missing: Sequence[str]) -> int:
    """The exit status. What is shown to be worse wins over what is too noisy to say."""
    if missing or any(change.judgement == "worse" for change in changes):
        return WORSE
    if not changes or any(change.judgement in _OPEN for change in changes):
        return TOO_NOISY
    return 0


def _again(before: Measurement, *, quiet: bool) -> tuple[Measurement, str | None]:
    """The same plan with other nonces: the texts are the same, and no cache can know them."""
    import secrets

    import msgspec

    from localfoundry.cli.bench_run import measured

    plan = msgspec.structs.replace(before.plan, nonce=secrets.token_hex(8))
    candidates = [outcome.candidate for outcome in before.outcomes]
    done = measured(context.settings(), plan, candidates, quiet=quiet)
    return done.result, done.run
