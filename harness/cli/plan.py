"""`floe-bench plan`: what a run would do and cost."""

from __future__ import annotations

import argparse

from floe_bench.harness.cli.grid import add_grid, resolve
from floe_bench.harness.cli.quiet import quiet_libraries


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_grid(sub)
    sub.add_argument("--json", action="store_true", help="as JSON")


def command(options: argparse.Namespace) -> int:
    """Print the plan, and return 0."""
    grid = resolve(options)
    cells = grid.cells
    quiet_libraries()
    from floe_bench.harness.cli import plan_table
    from floe_bench.harness.run.dry_run import plan_cell
    from floe_bench.harness.run.resolved import resolve_cell
    from floe_bench.harness.run.session import Session

    session = Session(grid.settings, grid.store)
    planned = [plan_cell(resolve_cell(session, cell)) for cell in cells]
    base = session.base_parameters
    print(plan_table.to_json(base, planned) if options.json else plan_table.to_text(grid.settings, base, planned))
    return 0
