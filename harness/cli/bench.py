"""`floe-bench bench`: time the fast paths against their peers, both in one run."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from floe_bench.harness import registry
from floe_bench.harness.cli.grid import add_results
from floe_bench.harness.cli.paths import path
from floe_bench.harness.cli.quiet import quiet_libraries
from floe_bench.harness.errors import UsageError
from floe_bench.harness.store.folder import Store


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "names", metavar="NAME", nargs="*", help="which benchmarks (default: all; smoke only with --against)"
    )
    sub.add_argument("--repeats", metavar="N", type=_positive, default=5, help="rounds of each case (default: 5)")
    sub.add_argument("--against", metavar="DIR", type=path, help="another checkout of this project, for smoke")
    sub.add_argument("--data-dir", metavar="DIR", type=path, help="real rows (or FLOE_DATA_DIR), else embedded ones")
    sub.add_argument("--table", action="store_true", help="print the table of all records; run nothing")
    add_results(sub)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def command(options: argparse.Namespace) -> int:
    """Run benchmarks one after the other. Each prints its table and writes its record."""
    if options.table:
        from floe_bench.harness.benchmarks import _runner

        print(_runner.table_of_records(options.results))
        return 0
    data_dir = options.data_dir or (path(os.environ["FLOE_DATA_DIR"]) if os.environ.get("FLOE_DATA_DIR") else None)
    for name, folder in (("--data-dir", data_dir), ("--against", options.against)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{name} {folder} is not a folder")
    chosen = [registry.find("benchmark", name) for name in dict.fromkeys(options.names)]
    Store(options.results, "bench").ensure_writable()
    quiet_libraries()
    from floe_bench.harness.benchmarks import Bench, _runner
    from floe_bench.harness.run.progress import Progress

    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        context = Bench(Path(folder), progress.update, options.repeats, data_dir, options.against)
        for plugin in chosen or registry.plugins("benchmark").values():
            if reason := _runner.unavailable(plugin, context):
                if chosen:
                    raise UsageError(f"benchmark {plugin.id} needs {reason}")
                progress.say(f"{plugin.id}: left out, it needs {reason}")
                continue
            progress.prefix = plugin.id
            measured = _runner.run(plugin, context, options.results, progress.say)
            print(_runner.to_text(f"{plugin.id}: {plugin.description}", measured), flush=True)
    return 0
