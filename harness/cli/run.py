"""`floe-bench run`: run what is not done of a grid, then write its tables."""

from __future__ import annotations

import argparse
import sys

from floe_bench.harness.cli.grid import add_grid, resolve
from floe_bench.harness.cli.quiet import quiet_libraries


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_grid(sub)


def command(options: argparse.Namespace) -> int:
    """Run, and return 1 where a cell failed."""
    grid = resolve(options)
    cells = grid.cells
    with grid.store.exclusively():
        quiet_libraries()
        from floe_bench.harness.cli.report import write_experiment
        from floe_bench.harness.run.grid import run_grid
        from floe_bench.harness.run.progress import Progress
        from floe_bench.harness.run.session import Session

        with Progress() as progress:
            outcome = run_grid(Session(grid.settings, grid.store, progress.update), cells, progress)
        for experiment in grid.experiments:
            write_experiment(grid, experiment, outcome.records, outcome.keys)
    print(f"{outcome.ran} cells run, {outcome.skipped} already done, {outcome.failed} failed", file=sys.stderr)
    return 1 if outcome.failed else 0
