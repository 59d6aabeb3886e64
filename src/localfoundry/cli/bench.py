"""`foundry bench`: a group whose first word may be a model. `foundry bench A B` is `foundry bench run A B`."""

from __future__ import annotations

import click

from localfoundry.cli.main import LazyGroup

BENCH = {
    "run": "bench_run:bench_run",
    "list": "bench_runs:list_runs",
    "show": "bench_runs:show",
    "export": "bench_runs:export",
    "diff": "bench_runs:diff",
    "baseline": "bench_runs:baseline",
    "check": "bench_check:check",
}


class BenchGroup(LazyGroup):
    """Measures what it is given, unless the first word is one of its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {*self.lazy, *self.aliases, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in names else ["run", *args])


@click.group(cls=BenchGroup, lazy=BENCH, aliases={"ls": "list"}, no_args_is_help=False)
def bench() -> None:
    """Measure models, keep what was measured, and compare. `foundry bench MODEL…` measures; see `bench run --help`."""
