"""`floe-bench compare`: two runs, or two methods of one, paired over items."""

from __future__ import annotations

import argparse

from floe_bench.harness.cli.paths import path
from floe_bench.harness.errors import UsageError


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("a", metavar="A", type=path, help="a folder with records/, such as results/smoke")
    sub.add_argument("b", metavar="B", type=path, nargs="?", help="another run of the profile")
    sub.add_argument("--methods", metavar="X,Y", help="these two methods of run A, instead of B")


def command(options: argparse.Namespace) -> int:
    """Print a Markdown table, and return 0."""
    from floe_bench.harness.gate import comparing
    from floe_bench.harness.report import tables

    if (options.b is None) == (options.methods is None):
        raise UsageError("compare wants a second folder, or two methods of the first with --methods X,Y")
    table = (
        comparing.methods(options.a, options.methods)
        if options.methods is not None
        else comparing.runs(options.a, options.b)
    )
    print(tables.to_markdown(table.title, table.view, table.notes))
    return 0
