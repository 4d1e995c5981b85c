"""The smoke profile, whole: this checkout against another one, each from nothing (--against DIR)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.files import PACKAGE
from floe_bench.harness.store.folder import Store

PROFILE = "smoke"
ROUNDS = 1
"""One is enough: a run takes minutes, and two runs of the same code hardly differ."""


def unavailable(bench: Bench) -> str | None:
    """Return that another checkout is needed, where none is given."""
    return None if bench.against else "another checkout of this project: --against DIR"


def run(bench: Bench) -> Iterator[Measurement]:
    assert bench.against is not None
    checkouts = {"theirs": bench.against.resolve(), "ours": PACKAGE.parent}
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    folders: dict[str, Path] = {}
    for number in range(ROUNDS):
        for name, checkout in checkouts.items():
            bench.progress(f"running {PROFILE} of {checkout}")
            folders[name] = bench.folder / f"{name}-{number}"
            start = time.perf_counter()
            _run(checkout, folders[name])
            seconds[name].append(time.perf_counter() - start)
    yield Measurement(
        what=f"{PROFILE}, start to tables",
        values=seconds,
        ratio=("theirs", "ours"),
        at_least=1.5,
        notes={"commits": {name: _commit(checkout) for name, checkout in checkouts.items()}}
        | _differences({name: _records(folder) for name, folder in folders.items()}),
    )


def _run(checkout: Path, results: Path) -> None:
    command = [sys.executable, "-m", _command(checkout), "run", PROFILE, "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)


def _command(checkout: Path) -> str:
    """Return the module that runs the command there. Older checkouts have another name for the package."""
    return "floe_bench" if (checkout / "floe_bench").is_dir() else "harness"


def _records(results: Path) -> dict[str, Record]:
    """Return the cells' records by label."""
    return {record.cell.label: record for record in Store(results, PROFILE).records()}


def _differences(runs: dict[str, dict[str, Record]]) -> dict[str, Any]:
    """Return per cell the layers, rank, accuracy and NLL on its own mix, of both runs."""
    cells = {
        label: {name: _facts(records[label]) for name, records in runs.items() if label in records}
        for label in sorted({label for records in runs.values() for label in records})
    }
    nll = [abs(cell["ours"]["nll"] - cell["theirs"]["nll"]) for cell in cells.values() if len(cell) == 2]
    return {"cells": cells, "median_nll_difference": median(nll), "largest_nll_difference": max(nll)}


def _facts(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "layers": record.plan.layers,
        "r": record.plan.r,
        "acc": record.scores[record.settings.eval.primary].metrics["acc"],
        "nll": record.scores["validation_nll"].metrics[f"nll_{record.cell.mix}"],
    }


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
