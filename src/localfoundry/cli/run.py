"""`foundry model run`, `chat` and `complete`: a model, ready and served, then a prompt, a pipe or a conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from localfoundry import instance
from localfoundry.cli import context, output
from localfoundry.cli.answer import Sampling, ask, complete_text
from localfoundry.cli.loading import Wish, engine_option, force_option, load_model, show_account, warn_of_force
from localfoundry.cli.pull import pull_model
from localfoundry.config import Settings
from localfoundry.errors import InvalidRequest
from localfoundry.instance import ServiceState
from localfoundry.units import format_timespan

F = TypeVar("F", bound=Callable[..., Any])


def _sampling_options(command: F) -> F:
    options = [
        click.option("--temperature", type=click.FloatRange(0, 2), help="Randomness of the answer."),
        click.option("--top-p", type=click.FloatRange(0, 1), help="Choose among the likeliest tokens of this mass."),
        click.option("--max-tokens", type=click.IntRange(1), help="Longest answer, in tokens."),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _load_options(command: F) -> F:
    options = [
        click.option("--prompt", "-p", help="Answer this and end."),
        click.option("--system", help="System prompt."),
        click.option("--verbose", "-v", is_flag=True, help="Say what is loaded, by what, where, and how fast it is."),
        click.option("--retain", type=bool, is_flag=False, flag_value=True, default=None, metavar="true|false",
                     help="Keep other models loaded."),
        click.option("--ttl", type=click.IntRange(0), help="Seconds after which it is unloaded when idle; 0 never."),
        click.option("--device", help="CPU, GPU or NPU."),
        click.option("--ctx", type=context.TOKENS, help="Context to load it with, for example 8k or 32768."),
        click.option("--keep-state", is_flag=True, default=None,
                     help="Save its conversations when another model replaces it, and go on from there."),
    ]  # fmt: skip
    for option in reversed([*options, engine_option, force_option]):
        command = option(command)
    return command


@click.command("run")
@click.argument("model")
@_load_options
@_sampling_options
@context.json_option
def run_model(
    model: str, prompt: str | None, system: str | None, verbose: bool, retain: bool | None, ttl: int | None,
    device: str | None, ctx: int | None, keep_state: bool | None, engine: str | None, force: bool,
    as_json: bool, **sampling: Any,
) -> None:  # fmt: skip
    """Run a model: download it if needed, load it, and chat, or answer a prompt or what is piped in."""
    _check_prompt(prompt)
    given = context.settings()
    session = _Session(given, model, verbose=verbose, quiet=as_json)
    session.make_ready(Wish(retain, ttl, ctx, device, keep_state, force=force or None, engine=engine))
    options = Sampling(system=system, **sampling)
    if prompt is None and verbose and not as_json and not _has_terminal():
        from localfoundry.cli.chat import greet

        greet()  # scripts that read a verbose run wait for these words, whoever sits at the other end
    text = prompt if prompt is not None else _piped()
    if text:
        ask(session.state, session.loaded, text, options, as_json=as_json, verbose=verbose)
    elif text is None and not as_json:
        from localfoundry.cli.chat import converse

        converse(given, session.state, session.loaded, options, verbose=verbose)
    elif as_json:
        output.document(session.loaded)


@click.command("chat")
@click.argument("model")
@_load_options
@_sampling_options
@click.pass_context
def chat(ctx: click.Context, /, **options: Any) -> None:
    """Chat with a model."""
    ctx.invoke(run_model, as_json=False, **options)


@click.command("complete")
@click.argument("model")
@click.option("--prompt", "-p", help="Text to continue; standard input where it is left out.")
@_sampling_options
@context.json_option
def complete(model: str, prompt: str | None, as_json: bool, **sampling: Any) -> None:
    """Continue a text, without a chat template."""
    _check_prompt(prompt)
    given = context.settings()
    text = prompt if prompt is not None else _piped()
    if not text:
        raise InvalidRequest("there is no text to continue", hint=f"foundry complete {model} -p 'Once upon a time'")
    session = _Session(given, model, verbose=False, quiet=True)
    session.make_ready(Wish())
    complete_text(session.state, session.loaded, text, Sampling(**sampling), as_json=as_json)


class _Session:
    """Gets a model from wherever it is to being served, and says what scripts and people expect to read."""

    def __init__(self, given: Settings, model: str, *, verbose: bool, quiet: bool) -> None:
        self.given = given
        self.model = model
        self.verbose = verbose
        self.quiet = quiet
        self._state: ServiceState | None = None
        self.loaded: dict[str, Any] = {}

    @property
    def state(self) -> ServiceState:
        """The service, once `make_ready` was called."""
        assert self._state is not None
        return self._state

    @property
    def _aside(self) -> bool:
        """Whether to speak on standard error: an answer that is piped on must be the answer alone."""
        return self.quiet or not (self.verbose or output.interactive())

    def _say(self, text: str) -> None:
        if self._aside:
            output.note(text)
        else:
            output.data(text)

    def make_ready(self, wish: Wish) -> None:
        """Download, start the service, load. Raises as those do."""
        manifest = context.cached(self.given, self.model)
        name = self.model
        if manifest is None:
            manifest = pull_model(self.given, self.model, quiet=self._aside)
            name = manifest.alias
        else:
            self._say(f"Model {self.model} was found in the local cache.")
        state, new = instance.start(self.given)
        self._state = state
        if new and self.verbose:
            self._say(f"🟢 Service is Started on {state.url}/, PID {state.pid}!")
        if not (self.given.retain_models if wish.retain is None else wish.retain):
            self._say("Unloading existing models. Use --retain true to keep additional models loaded.")
        self._say("🕕 Loading model...")
        self.loaded = load_model(self.given, manifest.id, wish)
        warn_of_force(self.loaded)
        spent = 0.0 if self.loaded["already_loaded"] else self.loaded["load_s"]
        self._say(f"Time cost to load model: {format_timespan(spent)}")
        self._say(f"🟢 Model {name} loaded successfully")
        if self.verbose and not self.quiet:
            show_account(self.loaded, state.url)


def _check_prompt(prompt: str | None) -> None:
    if prompt is not None and not prompt.strip():
        raise InvalidRequest("the prompt is empty", param="prompt", hint='foundry model run MODEL -p "a question"')


def _has_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def _piped() -> str | None:
    """What is piped in, as one prompt; None where a person sits at the other end. A last `/exit` is not part of it."""
    if _has_terminal():
        return None
    lines = sys.stdin.read().splitlines()
    while lines and lines[-1].strip() in ("/exit", "/bye", ""):
        lines.pop()
    return "\n".join(lines)
