"""What the harness takes beside the work: a cell's wall time against its charged seconds, a finished grid, `list`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from floe_bench.harness.benchmarks import Bench, Measurement, _records
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.files import PACKAGE
from floe_bench.harness.store.folder import Store

PROFILE = "smollm2-135m"
METHODS = ("base", "hydralora")
SMALL = {
    "data.source": "embedded", "data.train_rows": 32, "data.validation_rows": 8, "data.validation_fraction": 0.2,
    "data.pretrain_rows": 8, "data.max_length": 256, "train.epochs": 4.0, "eval.questions_per_subject": 1,
    "eval.nll_mixes": "dolly", "eval.evals": "mmlu_continuation,validation_nll,pretrain_nll",
}  # fmt: skip
"""About a minute of training on two cores. What the harness adds hardly grows with rows, so longer cells lose less."""
CELLS = 120
"""Eight methods on five mixes and three seeds, as the profile has them."""
LIMITS = {"finished grid": 3.0, "list": 0.5}
"""Seconds from the start of the process to its end."""

COUNTING = """
import sys
from floe_bench.harness.cli.main import main
from floe_bench.harness.model import base
load, calls = base.load, []
def counted(settings):
    calls.append(settings)
    return load(settings)
base.load = counted
code = main(sys.argv[1:])
print(f"loads: {len(calls)}")
sys.exit(code)
"""


def run(bench: Bench) -> Iterator[Measurement]:
    yield from _cells(bench)
    finished = _finished_grid(bench.folder / "finished")
    commands = {"finished grid": lambda: _of_nothing_new(finished), "list": lambda: _harness("list")}
    seconds = bench.alternate(commands)
    for name, limit in LIMITS.items():
        yield Measurement(
            what=f"{name}, the whole process" + (f": {CELLS} cells" if name != "list" else ""),
            values={name: seconds[name], "limit": [limit] * len(seconds[name])},
            ratio=(name, "limit"),
            at_most=1.0,
        )


def _cells(bench: Bench) -> Iterator[Measurement]:
    """Run a grid of the small real model from nothing, in a process of its own."""
    results = bench.folder / "cells"
    bench.progress(f"running {len(METHODS)} cells of {PROFILE}")
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    arguments = ["run", PROFILE, "--methods", ",".join(METHODS), "--mixes", "dolly", "--seeds", "1"]
    arguments += [part for setting in settings for part in ("--set", setting)]
    started = time.time()
    output = _python("-c", COUNTING, *arguments, "--results", str(results))
    ended = time.time()
    store = Store(results, PROFILE)
    times = [(store.record_path(r.cell, r.key).stat().st_mtime, r) for r in store.records()]
    written, records = zip(*sorted(times, key=lambda pair: pair[0]), strict=True)
    # The first cell's time includes start-up and loading the model. So cells are timed from the record before.
    wall = [after - before for before, after in pairwise(written)]
    charged = [_charged(record) for record in records]
    yield Measurement(
        what="wall time of a cell against planning, training and evaluation",
        values={"wall": wall, "charged": charged[1:]},
        ratio=("wall", "charged"),
        at_most=1.02,
        notes={
            "cells": [record.cell.label for record in records[1:]],
            "seconds_outside": [a - b for a, b in zip(wall, charged[1:], strict=True)],
            "of_these": "pre-flight checks of the adapter, putting it on and off, saving and loading it, the records",
            "seconds_before_the_first_cell_is_done_less_its_evaluation": written[0] - started - charged[0],
            "of_these_too": "imports, checks of the whole grid, loading the base model",
            "seconds_after_the_last_cell": ended - written[-1],
            "settings": SMALL,
        },
    )
    loads = float(output.stdout.rpartition("loads: ")[2])
    yield Measurement(
        what=f"loads of the base model in a process of {len(METHODS)} cells",
        values={"loads": [loads], "processes": [1.0]},
        unit="",
        ratio=("loads", "processes"),
        at_most=1.0,
    )


def _charged(record: Record) -> float:
    """Return the seconds of the cell's own stages.

    A stage that another cell had run is not run again, but these cells share none.
    """
    training = record.training.seconds if record.training else 0.0
    return record.planning_cost.seconds + training + sum(score.seconds for score in record.scores.values())


def _finished_grid(results: Path) -> Sequence[str]:
    """Fill a folder with every cell done. Return the arguments of the command that finds this out."""
    store = Store(results, _records.PROFILE)
    settings = _records.settings_of(CELLS)
    _records.fill(
        store, settings, _records.run_models(results / "models"), Store(results / "models", store.folder.name)
    )
    grid = ["--methods", ",".join(settings.methods), "--seeds", str(settings.seeds)]
    reference = ["--set", f"study.reference={settings.study.reference}"]
    return ["run", _records.PROFILE, *grid, *reference, "--results", str(results)]


def _of_nothing_new(arguments: Sequence[str]) -> None:
    said = _harness(*arguments).stderr
    if f"0 cells run, {CELLS} already done" not in said:
        raise RuntimeError(f"the grid was not finished: {said[-500:]}")


def _harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _python("-m", "floe_bench", *arguments)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=PACKAGE.parent, env=environment, check=True, capture_output=True, text=True
    )
