"""`foundry rate`: people compare answers without knowing whose they are; what the votes say, with intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from localfoundry.cli import context, output
from localfoundry.errors import InvalidRequest

if TYPE_CHECKING:
    from localfoundry.cli.rate_judge import Judge
    from localfoundry.config import Settings
    from localfoundry.quality.ratings import Answer, Pairing, Question
    from localfoundry.results.db import Results
    from localfoundry.results.rows import Run, VoteRow

_CRITERIA = ("accuracy", "clarity", "completeness", "speed")
_SEED = 42


@click.command()
@click.argument("models", nargs=-1)
@click.option("--suite", "suites", multiple=True, help="Prompts of `course` (the default), a pack, or a YAML suite.")
@click.option("--prompts", type=click.Path(path_type=Path), help="Prompts of a file: lines, or JSON objects.")
@click.option("--language", "languages", type=click.Choice(["da", "en"]), multiple=True, help="Only these languages.")
@click.option("--run", "source", help="Rate the answers that this run kept.")
@click.option("--rater", help="Who votes; the account's name where it is left out.")
@click.option("--criteria", default=",".join(_CRITERIA), show_default=True, help="What to vote on, with commas.")
@click.option("--max-tokens", type=click.IntRange(1), default=400, show_default=True, help="Longest answer, in tokens.")
@click.option("--again", is_flag=True, help="Ask for new answers, although the same prompts were answered before.")
@click.option("--judge", help="Let this model vote, in both orders of each pair; kept apart from people's votes.")
@click.option("--judge-endpoint", help="An OpenAI-compatible address where the judge runs.")
@click.option("--judge-key-env", help="The environment variable that holds the API key for that address.")
@click.option("--results", "results_only", is_flag=True, help="Only show what the votes say.")
@context.json_option
def rate(
    models: tuple[str, ...], suites: tuple[str, ...], prompts: Path | None, languages: tuple[str, ...],
    source: str | None, rater: str | None, criteria: str, max_tokens: int, again: bool, judge: str | None,
    judge_endpoint: str | None, judge_key_env: str | None, results_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Rate models: two answers to one prompt, names hidden, places drawn by lot. Votes are kept; go on at any time."""
    from localfoundry.cli import rate_answers
    from localfoundry.cli.answer import Sampling

    chosen = _criteria(criteria)
    given = context.settings()
    with rate_answers.opened(given) as results:
        if results_only:
            _results(results, models, as_json)
            return
        _check(models)
        rater = _rater(rater)
        if source is not None:
            run = rate_answers.taken_from(results, results.run(source), models)
        else:
            questions = _questions(suites, prompts, languages)
            sampling = Sampling(max_tokens=max_tokens, temperature=0.0, seed=_SEED)
            run = rate_answers.find_or_begin(results, models, questions, sampling, again=again)
            rate_answers.ask_missing(given, results, run, models, questions, sampling)
        try:
            sitting = _Sitting(results, run, models)
            if judge is None:
                sitting.person(rater, chosen, as_json)
            else:
                from localfoundry.cli.rate_judge import Judge

                sitting.judge(given, Judge(judge, judge_endpoint, judge_key_env), chosen)
        finally:
            results.finish(run.id)  # votes are whole at any moment, and another sitting may add to them
        _results(results, models, as_json)


class _Sitting:
    """The pairs of one run, and who votes on them."""

    def __init__(self, results: Results, run: Run, models: Sequence[str]) -> None:
        from localfoundry.cli import rate_answers

        self._results = results
        self._run = run
        questions, self._answers = rate_answers.kept(results, run.id)
        self._questions = questions
        self._models = models
        self._names = _names(results, run, models)

    def person(self, rater: str, criteria: Sequence[str], as_json: bool) -> None:
        from localfoundry.cli.rate_desk import Desk
        from localfoundry.quality.ratings import still_open

        votes = self._results.votes(self._run.id, rater=rater)
        steps = still_open(self._pairings(rater), criteria, votes, rater)
        if not steps:
            output.note(f"{rater} has voted on every pair of these models and prompts.")
            return
        say = output.note if as_json else output.data
        given = Desk(self._results, self._run.id, rater, self._names, self._two, say).sit(steps)
        output.note(f"{given} votes by {rater} are kept; {len(steps) - given} are left.")

    def judge(self, given: Settings, one: Judge, criteria: Sequence[str]) -> None:
        from localfoundry.cli.rate_judge import decide

        if one.model in self._models:
            output.note(f"{one.model} judges itself here: models are known to prefer their own answers.")
        silent = decide(given, self._results, self._run.id, one, self._pairings(one.rater), criteria, self._two)
        if silent:
            output.note(f"{silent} times {one.model} gave no verdict; asked again with the next run of this command.")

    def _pairings(self, rater: str) -> list[Pairing]:
        """Without those where one of the two has no whole answer: there is nothing to compare."""
        from localfoundry.quality.ratings import pairings

        found = pairings(self._questions, self._models, rater, _SEED)
        whole = [p for p in found if all(answer is not None and answer.error is None for answer in self._of(p))]
        if len(whole) < len(found):
            output.note(f"{len(found) - len(whole)} of {len(found)} pairs are left out: an answer failed.")
        return whole

    def _of(self, pairing: Pairing) -> tuple[Answer | None, Answer | None]:
        q = pairing.question
        of_models = self._answers.get((q.suite, q.item, q.language), {})
        return of_models.get(pairing.first), of_models.get(pairing.second)

    def _two(self, pairing: Pairing) -> tuple[Answer, Answer]:
        first, second = self._of(pairing)
        assert first is not None and second is not None
        return first, second


def _names(results: Results, run: Run, models: Sequence[str]) -> list[str]:
    """Everything that the models are called here; not shown in answers."""
    called = {name for row in results.candidates(run.id) for name in (row.label, row.model, row.model_id) if name}
    return sorted(called | set(models))


def _questions(suites: Sequence[str], path: Path | None, languages: Sequence[str]) -> list[Question]:
    from localfoundry.quality import prompts, suite

    wanted = tuple(languages) or prompts.LANGUAGES
    found = prompts.read(path) if path is not None else []
    for name in suites or (() if path is not None else (prompts.COURSE,)):
        if name == prompts.COURSE:
            found += prompts.course(wanted)
        elif name in suite.PACKS:
            found += [q for lang in suite.LANGUAGES if lang in wanted for q in prompts.of_suite(suite.pack(name, lang))]
        elif Path(name).suffix in (".yaml", ".yml"):
            found += prompts.of_suite(suite.load(Path(name)))
        else:
            known = ", ".join((prompts.COURSE, *suite.PACKS))
            raise InvalidRequest(f"no suite is called {name!r}; there are {known}, and YAML files", param="suite")
    if languages:
        found = [question for question in found if question.language in languages]
    if not found:
        raise InvalidRequest("there is no prompt that people could rate answers to", param="suite")
    return found


def _criteria(text: str) -> list[str]:
    given = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in given if word not in _CRITERIA]:
        raise InvalidRequest(f"{unknown[0]!r} is no criterion; there are {', '.join(_CRITERIA)}", param="criteria")
    if not given:
        raise InvalidRequest(f"no criterion is given; there are {', '.join(_CRITERIA)}", param="criteria")
    return given


def _check(models: Sequence[str]) -> None:
    if len(set(models)) < 2:
        raise InvalidRequest(
            f"{len(set(models))} models; at least 2 different ones are compared", hint="foundry rate A B"
        )


def _rater(name: str | None) -> str:
    """Raises InvalidRequest for what cannot be a name; `judge:` begins those of models."""
    import getpass

    if name is None:
        try:
            name = re.sub(r"[^\w.@-]", "_", getpass.getuser())[:64]
        except (OSError, KeyError):  # an account without a name
            name = "rater"
    if not re.fullmatch(r"[\w.@-][\w .@-]{0,63}", name):
        raise InvalidRequest(f"{name[:80]!r} cannot name a rater: up to 64 letters, digits, spaces, and . @ _ -")
    return name


def _results(results: Results, models: Sequence[str], as_json: bool) -> None:
    from localfoundry.cli import rate_report
    from localfoundry.quality.ratings import judgements, verdicts

    votes = _votes(results, models)
    people, judges = verdicts(votes), judgements(votes)
    if as_json:
        output.document(rate_report.document(people, judges))
    else:
        rate_report.show(people, judges)


def _votes(results: Results, models: Sequence[str]) -> list[VoteRow]:
    """Those between `models`, from all runs; all of them where none is named."""
    return [vote for vote in results.votes() if not models or {vote.a, vote.b} <= set(models)]
