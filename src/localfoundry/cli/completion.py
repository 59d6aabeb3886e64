"""`foundry completion SHELL`: the script that teaches a shell our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from localfoundry.cli import output


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell, for instance: foundry completion bash >> ~/.bashrc"""
    from localfoundry.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    output.data(kind(cli, {}, "foundry", "_FOUNDRY_COMPLETE").source())
