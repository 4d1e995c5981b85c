"""`floe-bench check`: hold a run against the expectation that was committed for it."""

from __future__ import annotations

import argparse
import sys

from floe_bench.harness.cli.grid import add_grid, resolve
from floe_bench.harness.cli.paths import path
from floe_bench.harness.cli.quiet import quiet_libraries


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_grid(sub)
    sub.add_argument("--expected", metavar="FILE", type=path, help="default: results/PROFILE/expected.json")
    sub.add_argument("--update", action="store_true", help="write the run as the new expectation, show the changes")
    sub.add_argument("--junit", metavar="FILE", type=path, help="write JUnit XML as well")
    sub.add_argument("--markdown", metavar="FILE", type=path, help="write the summary as well")


def command(options: argparse.Namespace) -> int:
    """Print what differs, and return 1 for a regression. With --update write a new expectation, and return 0."""
    grid = resolve(options)
    cells = grid.cells
    quiet_libraries()
    from floe_bench.harness.files import write_text
    from floe_bench.harness.gate import check, text, verdicts
    from floe_bench.harness.run.resolved import keys_of
    from floe_bench.harness.run.session import Session

    keys = keys_of(Session(grid.settings, grid.store), cells)
    if options.update:
        path = options.expected or grid.store.folder / check.FILE
        print(check.update(grid.store, grid.settings, keys, path))
        print(f"expectation: {path}", file=sys.stderr)
        return 0
    path = check.expectation_file(grid.store, options.expected)
    findings = check.check(grid.store, grid.settings, keys, path)
    summary = text.to_markdown(f"check {grid.profile}", findings)
    if options.markdown:
        write_text(options.markdown, summary)
    if options.junit:
        write_text(options.junit, text.to_junit(grid.profile, findings))
    print(summary)
    return 1 if verdicts.regressions(findings) else 0
