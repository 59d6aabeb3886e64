"""Writes the pages of docs/ that follow from the code: commands, settings, errors. `--check` only compares.

A test runs the comparison, so nothing can be added without standing in the documentation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from localfoundry import config
from localfoundry.cli.main import LazyGroup, cli
from localfoundry.config.model_defaults import MODEL_OPTIONS
from localfoundry.errors import FoundryError

DOCS = Path(__file__).parent.parent / "docs"
_NOTICE = "<!-- Written by scripts/build_docs.py; do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated page by file name."""
    return {"cli.md": commands_page(), "settings.md": settings_page(), "errors.md": errors_page()}


def commands_page() -> str:
    parts = [
        "# Commands\n\nEvery command that prints data takes `--json` or `-o json`. Data goes to standard output, "
        "everything else to standard error. `foundry COMMAND --help` shows the same as this page.\n"
    ]
    context = click.Context(cli, info_name="foundry", help_option_names=["-h", "--help"])
    names = ("model", "cache", "bench", "bundle", "config", "engine", "key", "results", "service", "server")
    for group in (cli, *(cli.get_command(context, name) for name in names)):
        assert isinstance(group, LazyGroup)
        here = context if group is cli else click.Context(group, info_name=group.name, parent=context)
        parts.append(f"## {here.command_path}\n\n{group.help}\n")
        parts += _options(group, here)
        for name in group.list_commands(here):
            command = group.get_command(here, name)
            if command is not None and not isinstance(command, click.Group):
                parts.append(_command(command, click.Context(command, info_name=name, parent=here), group, name))
    return _NOTICE + "\n".join(parts)


def _command(command: click.Command, context: click.Context, group: LazyGroup, name: str) -> str:
    others = sorted(alias for alias, target in group.aliases.items() if target == name)
    also = f" Also: {', '.join(f'`{alias}`' for alias in others)}." if others else ""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"### {context.command_path}\n", f"`{usage}`\n", f"{command.help}{also}\n"]
    return "\n".join([*lines, *_options(command, context)])


def _options(command: click.Command, context: click.Context) -> list[str]:
    rows = [record for p in command.get_params(context) if (record := p.get_help_record(context))]
    if not rows:
        return []
    return [
        "| option | meaning |",
        "|---|---|",
        *(f"| `{_cell(flags)}` | {_cell(meaning)} |" for flags, meaning in rows),
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip() or " "


def settings_page() -> str:
    lines = [
        "# Settings\n",
        "A flag wins over the environment, the environment over `settings.json` in the home folder, the file over the "
        "default. `foundry config set KEY VALUE` writes the file; `foundry config list` prints what is in force and "
        "where it comes from. [Configuration](configuration.md) says more.\n",
        "Live: a running service takes over a change of the file at once (yes), at the next load of a model (load), or "
        "at its own next start (no).\n",
        "| key in settings.json | environment | default | live | meaning |",
        "|---|---|---|---|---|",
    ]
    for option in config.options():
        meta = option.metadata
        key = "–" if option.name == "home" else f"`{meta['key']}`"
        unit = f" ({meta['unit']})" if meta["unit"] else ""
        live = {True: "yes", False: "no"}.get(meta["live"], meta["live"])
        lines.append(f"| {key} | `{meta['env']}` | {_default(option.name)} | {live} | {_cell(meta['help'])}{unit} |")
    lines += [
        "",
        "## For one model\n",
        "Keys of `models.NAME` in `settings.json`, where NAME is an alias, a name or an id; the more specific wins. "
        "`foundry config set models.phi-4-mini.context 4096` sets one.\n",
        "| key | takes effect | meaning |",
        "|---|---|---|",
        *(
            f"| `{o.key}` | {o.takes_effect} | {_cell(o.help)}{f' ({o.unit})' if o.unit else ''} |"
            for o in MODEL_OPTIONS
        ),
        "",
        "Also honoured: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` for downloads; `HF_ENDPOINT`, "
        "`HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE` for Hugging Face; pip's own configuration for the package index; "
        "`NO_COLOR` and `TERM=dumb` for output.",
        "",
    ]
    return _NOTICE + "\n".join(lines)


def _default(name: str) -> str:
    if name == "home":
        return "`~/.localfoundry`"
    option = next(o for o in config.options() if o.name == name)
    value = str(option.default).lower() if isinstance(option.default, bool) else option.default
    if isinstance(value, tuple):
        value = ",".join(value) or None
    return "not set" if value is None else f"`{value}`"


def errors_page() -> str:
    lines = [
        "# Errors\n",
        'Over HTTP an error is `{"error": {"message", "type", "param", "code", "hint"}}` with the status below. '
        "On the command line it is the message and what to type next, on standard error, with the exit status below. "
        "Exit status 130 means Ctrl-C.\n",
        "| code | HTTP | exit | when |",
        "|---|---|---|---|",
    ]
    for kind in tree(FoundryError):
        words = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{kind.code}` | {kind.status} | {kind.exit_code} | {_cell(words)} |")
    return _NOTICE + "\n".join([*lines, ""])


def tree(kind: type[FoundryError]) -> list[type[FoundryError]]:
    """A class and everything below it, in the order of declaration, without classes that tests add."""
    below = [c for c in kind.__subclasses__() if c.__module__.startswith("localfoundry.")]
    return [kind, *(c for child in below for c in tree(child))]


def main() -> int:
    stale = []
    for name, text in pages().items():
        file = DOCS / name
        if "--check" in sys.argv:
            stale += [name] if not file.exists() or file.read_text(encoding="utf-8") != text else []
        else:
            file.write_text(text, encoding="utf-8")
    if stale:
        print(f"out of date: {', '.join(stale)}; run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
