"""The conversation on the terminal: line editing, history, several lines, commands that begin with a slash.

Ctrl-C ends the answer that is being given, not the conversation; the model stops with it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localfoundry.cli import output
from localfoundry.cli.answer import Answer, Printer, Sampling, stream_chat
from localfoundry.cli.loading import Wish, load_model
from localfoundry.client import ServiceClient
from localfoundry.config import Settings
from localfoundry.errors import FoundryError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from localfoundry.instance import ServiceState

_HELP = """\
/help, /?         this list
/exit             leave (Ctrl-D does the same); the model stays loaded
/clear            forget the conversation
/system TEXT      set the system prompt; without a text, show it
/model NAME       go on with another cached model; without a name, show it
/stats            figures of the last answer
/save FILE        write the conversation as JSON
\"\"\"               begins and ends a text of several lines; Alt-Enter adds a line"""


class Conversation:
    """Messages so far, and the model they go to."""

    def __init__(
        self, given: Settings, state: ServiceState, loaded: dict[str, Any], options: Sampling, verbose: bool
    ) -> None:
        self.given = given
        self.state = state
        self.loaded = loaded
        self.options = options
        self.verbose = verbose
        self.system = options.system
        self.messages: list[dict[str, str]] = []
        self.last: Answer | None = None

    def _chosen_system(self) -> str | None:
        """The system prompt that the service adds where there is none of its own."""
        name = self.loaded["id"].rpartition(":")[0]
        system = self.given.defaults_for((self.loaded["alias"], name, self.loaded["id"])).system
        return f"{system} (from the settings)" if system else None

    def say(self, text: str, runner: asyncio.Runner) -> None:
        """Send a message and print the answer. What was given before Ctrl-C stays in the conversation."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.messages, {"role": "user", "content": text}]
        answer = Answer()

        async def work() -> None:
            async with ServiceClient(self.state) as client:
                await stream_chat(client, self.loaded["id"], messages, self.options, Printer(), answer)

        try:
            runner.run(work())
        except KeyboardInterrupt:
            output.data("\n[stopped]", end="")
        except FoundryError as exc:
            output.data()
            output.failure(exc)
            return
        output.data()
        self.last = answer
        if self.verbose:
            output.data(output.dim(answer.figures()))
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.content}]

    def command(self, line: str) -> bool:
        """Carry out a slash command; False where it ends the conversation."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/bye", "/quit"):
            return False
        if name in ("/help", "/?"):
            output.data(_HELP)
        elif name == "/clear":
            self.messages.clear()
            output.data("The conversation is forgotten.")
        elif name == "/system":
            self.system = rest or self.system
            output.data(f"System prompt: {self.system or self._chosen_system() or 'none'}")
        elif name == "/model":
            self._switch(rest)
        elif name == "/stats":
            output.data(self.last.figures() if self.last else "No answer yet.")
        elif name == "/save":
            self._save(rest)
        else:
            output.data(f"There is no {name}. /help lists what there is.")
        return True

    def _switch(self, name: str) -> None:
        if name:
            self.loaded = load_model(self.given, name, Wish())
        output.data(f"Model: {self.loaded['id']}")

    def _save(self, name: str) -> None:
        if not name:
            output.data("/save needs the name of a file.")
            return
        document = {"model": self.loaded["id"], "system": self.system, "messages": self.messages}
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                json.dump(document, file, indent=2, ensure_ascii=False)
        except OSError as exc:
            output.data(f"{name} was not written: {exc.strerror}")
        else:
            output.data(f"Saved {len(self.messages)} messages to {name}.")


def greet() -> None:
    """The words that say that the model is ready for questions; scripts wait for them."""
    output.data()
    output.data("Interactive Chat. Enter /? or /help for help.")
    output.data("Press Ctrl+C to cancel generation. Type /exit to leave the chat.")


def converse(given: Settings, state: ServiceState, loaded: dict[str, Any], options: Sampling, *, verbose: bool) -> None:
    """Talk until /exit or end of file. The model stays loaded."""
    greet()
    conversation = Conversation(given, state, loaded, options, verbose)
    reader = _reader(given)
    with asyncio.Runner() as runner:
        while True:
            try:
                text = _read(reader)
            except EOFError:
                return
            except KeyboardInterrupt:
                continue  # at the prompt it clears the line
            if not text:
                continue
            if not text.startswith("/") or "\n" in text:
                conversation.say(text, runner)
                continue
            try:
                if not conversation.command(text):
                    return
            except FoundryError as exc:
                output.failure(exc)


def _read(reader: PromptSession[str]) -> str:
    text = reader.prompt("> ").strip()
    if not text.startswith('"""'):
        return text
    lines = [text[3:]]
    while not lines[-1].rstrip().endswith('"""') or (len(lines) == 1 and not lines[0]):
        lines.append(reader.prompt("... "))
    return "\n".join(lines).rstrip()[:-3].strip()


def _reader(given: Settings) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    history: History = InMemoryHistory()
    try:
        given.home.mkdir(parents=True, exist_ok=True)
        history = FileHistory(str(given.home / "history"))
    except OSError as exc:
        output.note(f"the history is not kept: {exc.strerror}")
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(history=history, key_bindings=keys)
