"""The command `floe-bench`: one file per command beside this one. Heavy libraries load only where one computes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from floe_bench.harness.cli import bench, check, compare, environment, listing, output, plan, report, run, show, why
from floe_bench.harness.cli.parser import parse
from floe_bench.harness.errors import StorageError, UsageError, on_one_line

USAGE_ERROR, STORAGE_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 3, 130, 141

COMMANDS = {
    "list": (listing, "methods, mixes, evaluations, experiments, checks, claims, benchmarks and profiles"),
    "plan": (plan, "what a run would do and cost, without weights or network"),
    "run": (run, "run what is not done of a profile's grid, then write its tables"),
    "report": (report, "tables, checks and claims, from the records alone"),
    "check": (check, "hold a run against the expectation that was committed for it"),
    "compare": (compare, "two runs, or two methods of one run, answer by answer"),
    "show": (show, "print a cell's record"),
    "why": (why, "why a cell is done, or what has changed since it was"),
    "bench": (bench, "time the fast paths against their peers, both in one run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    environment.settle()
    output.settle()
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, COMMANDS)
        code = options.command(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"floe-bench: {on_one_line(str(error))}", file=sys.stderr)
        return USAGE_ERROR
    except StorageError as error:
        with suppress(OSError):  # the log may be what has no room
            print(f"floe-bench: {on_one_line(str(error))}", file=sys.stderr)
        return STORAGE_ERROR
    except BrokenPipeError:  # whoever reads has read enough
        output.abandon()
        return CLOSED_PIPE
    except OSError as error:
        if error.errno not in output.NO_ROOM:
            raise
        output.abandon()
        print(f"floe-bench: the output cannot be written ({error.strerror}): make room", file=sys.stderr)
        return STORAGE_ERROR
    except KeyboardInterrupt:
        print(
            "floe-bench: interrupted; what is finished is kept, run the same command to go on",
            file=sys.stderr,
        )
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
