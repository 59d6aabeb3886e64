"""Renders the chat template of a stranger, in a process of its own with little memory, little time and no secrets.

A template is a program: it can loop, and multiply text. The engine below counts steps (`fuel`) and gives the program
no way to Python, to files or to the network; the process around it limits what a single step may cost, since
one multiplication of text can fill a memory. minijinja and not jinja2: jinja2's sandbox counts no steps, and its last
release is from March 2025. The dialect is that of the hub's own library: trimmed blocks, loop controls, Python's
methods on texts and lists, `raise_exception`, `strftime_now` and a `tojson` that leaves HTML alone.

Parent: `render_all`. Child: `python -m localfoundry.formats.render`, one JSON object in, one out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

DEADLINE_S = 10.0  # for everything, the start of the process included; a template takes 1 ms
CPU_S = 3
MEMORY_BYTES = 1024 * 2**20  # of address space; the interpreter and the engine use about 100 MB
FUEL = 2_000_000  # steps of one rendering; the longest templates in use take about 10,000
MAX_OUTPUT_CHARACTERS = 256 * 1024  # of one rendering
_MAX_REASON = 300
# The hub's library marks with these what training should learn from; they print nothing.
_TRAINING_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_TODAY = "01 Jan 2026"  # what `strftime_now` answers: a rendering must not change with the day


class Case(msgspec.Struct, frozen=True):
    """One rendering to make. `tools` None: the template sees no such name, as in the engines."""

    name: str
    messages: list[dict[str, Any]]
    generate: bool = True  # `add_generation_prompt`
    tools: list[dict[str, Any]] | None = None


class Rendering(msgspec.Struct, frozen=True):
    """What came of a case: a text, or the reason why there is none."""

    text: str | None
    problem: str | None = None
    refused: bool = False  # the template itself raised: it does not take such a conversation


class _Job(msgspec.Struct):
    template: str
    cases: list[Case]
    bos: str = ""
    eos: str = ""


def render_all(template: str, cases: Sequence[Case], *, bos: str = "", eos: str = "") -> dict[str, Rendering]:
    """Renderings by the name of their case. Blocking, at most `DEADLINE_S` seconds.

    Where the process runs out of time or memory, every case has that as its problem.
    """
    import subprocess

    job = msgspec.json.encode(_Job(template, list(cases), bos, eos))
    # Nothing of the environment is passed on but what Python needs to start: tokens are none of a template's business.
    kept = {"PATH", "PYTHONPATH", "PYTHONHOME", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "localfoundry.formats.render"],  # -P: nothing is imported from where we stand
            input=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=DEADLINE_S,
            check=False,
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=dict[str, Rendering])
        problem = f"it broke off (status {done.returncode}); it may use {CPU_S} s and {MEMORY_BYTES // 2**20} MiB"
    except subprocess.TimeoutExpired:
        problem = f"it was not done after {DEADLINE_S:g} s"
    except msgspec.MsgspecError:
        problem = "what it rendered to is no text"
    except OSError as exc:
        problem = f"the process to try it in could not be started: {exc.strerror}"
    return {case.name: Rendering(None, problem) for case in cases}


def main() -> None:
    """The child."""
    _limit()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=_Job)
    import minijinja

    refusals: list[str] = []
    environment = minijinja.Environment(
        templates={"chat": _TRAINING_MARKS.sub("", job.template)},
        globals={"raise_exception": _raiser(refusals), "strftime_now": lambda _: _TODAY},
        filters={"tojson": _to_json, "length": _length, "count": _length},
        fuel=FUEL,
        trim_blocks=True,
        lstrip_blocks=True,
        pycompat=True,
        auto_escape_callback=lambda _: False,
    )
    found = {}
    for case in job.cases:
        refusals.clear()
        names: dict[str, Any] = {"messages": case.messages, "bos_token": job.bos, "eos_token": job.eos}
        names["add_generation_prompt"] = case.generate
        if case.tools is not None:
            names["tools"] = case.tools
        try:
            text = environment.render_template("chat", **names)
        except (minijinja.TemplateError, _Refusal, *_OF_METHODS) as exc:
            reason = refusals[0] if refusals else str(exc).partition("\n")[0]
            found[case.name] = Rendering(None, reason[:_MAX_REASON], bool(refusals))
            continue
        found[case.name] = _bounded(text)
    sys.stdout.buffer.write(msgspec.json.encode(found))


class _Refusal(Exception):
    """The template called `raise_exception`."""


# Messages are Python's lists and dicts, and their plain methods can be called with anything (`__…__` cannot).
_OF_METHODS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


def _bounded(text: str) -> Rendering:
    if len(text) > MAX_OUTPUT_CHARACTERS:
        return Rendering(None, f"it makes {len(text):,} characters of a short conversation")
    return Rendering(text.encode("utf-8", "replace").decode())


def _raiser(refusals: list[str]) -> Any:
    def raise_exception(message: object = "") -> None:
        refusals.append(str(message)[:_MAX_REASON])
        raise _Refusal(message)

    return raise_exception


def _length(value: Any) -> int:
    """What is not there has no length, as in jinja2: templates ask for that of tools."""
    return 0 if value is None else len(value)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    import json

    separators = options.get("separators")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=bool(options.get("sort_keys")),
    )


def _limit() -> None:
    """Where the system has such limits (not Windows, and macOS ignores the memory's): a deadline holds everywhere."""
    if sys.platform == "win32":
        return
    import contextlib
    import resource

    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        with contextlib.suppress(ValueError, OSError):  # a limit below ours is in force
            resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
