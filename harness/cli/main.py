"""The command `floe-bench`: what it accepts. Heavy libraries load only where a command computes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from floe_bench.harness.cli import commands
from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec import profiles

USAGE_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except UsageError as error:
        print(f"floe-bench: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "floe-bench: interrupted; what is finished is kept, run the same command to go on",
            file=sys.stderr,
        )
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="floe-bench",
        description="Reproduce and judge FLoE (arXiv 2506.00495) against the methods it is held against.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        return sub

    listing = add("list", commands.list_, "methods, mixes, evaluations, experiments, benchmarks and profiles")
    plan = add("plan", commands.plan, "what a run would do and cost, without weights or network")
    run = add("run", commands.run, "run what is not done of a profile's grid, then write its tables")
    report = add("report", commands.report, "tables, checks and claims, from the records alone")
    check = add("check", commands.check, "hold a run against the expectation that was committed for it")
    compare = add("compare", commands.compare, "two runs, or two methods of one run, answer by answer")
    show = add("show", commands.show, "print a cell's record")
    why = add("why", commands.why, "why a cell is done, or what has changed since it was")
    bench = add("bench", commands.bench, "time the fast paths against their peers, both in one run")

    for sub in (plan, run, report, check, why):
        _add_grid(sub)
    _add_profile(show)
    report.set_defaults(experiment=None)  # every experiment that has a record
    report.add_argument("--strict", action="store_true", help="exit code 1 where a check fires")
    for sub in (listing, plan, show):
        sub.add_argument("--json", action="store_true", help="as JSON")
    for sub in (show, why):
        sub.add_argument("cell", metavar="CELL", help='part of its label, "dolly / lora / seed 0", or record file')
    check.add_argument("--expected", metavar="FILE", type=Path, help="default: results/PROFILE/expected.json")
    check.add_argument("--update", action="store_true", help="write the run as the new expectation, show the changes")
    check.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML as well")
    check.add_argument("--markdown", metavar="FILE", type=Path, help="write the summary as well")
    compare.add_argument("a", metavar="A", type=Path, help="a folder with records/, such as results/smoke")
    compare.add_argument("b", metavar="B", type=Path, nargs="?", help="another run of the profile")
    compare.add_argument("--methods", metavar="X,Y", help="these two methods of run A, instead of B")
    bench.add_argument(
        "names", metavar="NAME", nargs="*", help="which benchmarks (default: all; smoke only with --against)"
    )
    bench.add_argument("--repeats", metavar="N", type=_positive, default=5, help="rounds of each case (default: 5)")
    bench.add_argument("--against", metavar="DIR", type=Path, help="another checkout of this project, for smoke")
    bench.add_argument("--data-dir", metavar="DIR", type=Path, help="real rows (or FLOE_DATA_DIR), else embedded ones")
    bench.add_argument("--table", action="store_true", help="print the table of all records; run nothing")
    _add_results(bench)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def _add_results(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--results", metavar="DIR", type=Path, default=Path("results"), help="default: ./results")


def _add_profile(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("profile", metavar="PROFILE", help=f"one of: {', '.join(profiles.names())}")
    _add_results(sub)


def _add_grid(sub: argparse.ArgumentParser) -> None:
    """What names a grid of cells, and under which settings."""
    _add_profile(sub)
    sub.add_argument("--methods", metavar="A,B", help="instead of the profile's; options as lora:r=16")
    sub.add_argument("--mixes", metavar="X,Y", help="instead of the profile's")
    sub.add_argument("--seeds", metavar="N", type=int, help="how many seeds")
    sub.add_argument("--experiment", metavar="A,B", default="main", help="which experiments, or all (default: main)")
    sub.add_argument("--data-dir", metavar="DIR", help="read data from this folder (or FLOE_DATA_DIR)")
    sub.add_argument("--model-path", metavar="DIR", help="read the weights from this folder")
    sub.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any other setting")


if __name__ == "__main__":
    sys.exit(main())
