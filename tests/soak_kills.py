"""Kill runs of tiny at random moments, N times, and compare the table with that of a run that was left alone.

    python tests/soak_kills.py [N] [--seed SEED] [--quick]      N is 50; --quick: one mix, two methods, no questions

Each run is a fork of this process, which has loaded the libraries: so a kill hits work, and not imports. All kinds of
stages are met: trainings with checkpoints, measures, probes, evaluations; and records and tables.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

from floe_bench.harness.cli.main import main

GRID = ("--set", "train.checkpoint_steps=1", "--set", "train.epochs=2")
QUICK = (
    "--methods", "full,floe:shares=0.5+1", "--mixes", "dolly", "--set", "eval.evals=validation_nll",
    "--set", "eval.primary=validation_nll",
)  # fmt: skip
SAME = ("mix", "method", "accuracy", "nll", "layers", "r", "trainable_parameters", "training_tokens", "planning_tokens")
FORK = multiprocessing.get_context("fork")


class Soak:
    """Run one grid in processes of their own. folder: for results and logs."""

    def __init__(self, folder: Path, grid: tuple[str, ...]):
        self.folder = folder
        self.grid = grid

    def start(self, name: str) -> BaseProcess:
        process = FORK.Process(target=self._run, args=(name,))
        process.start()
        return process

    def finish(self, name: str) -> None:
        process = self.start(name)
        process.join()
        assert process.exitcode == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def rows(self, name: str) -> list[dict]:
        table = self.folder / name / "tiny" / "tables" / "main.json"
        return [{key: row[key] for key in SAME} for row in json.loads(table.read_text(encoding="utf-8"))["rows"]]

    def compare(self, name: str) -> None:
        """Raise AssertionError where the table differs, or where what a kill left behind was taken for finished."""
        assert self.rows(name) == self.rows("alone")
        assert "set aside" not in self.log(name), self.log(name)
        assert not list((self.folder / name).rglob("checkpoints"))

    def _run(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        arguments = ["run", "tiny", "--seeds", "1", *self.grid, "--results", str(self.folder / name)]
        silent = contextlib.redirect_stdout(io.StringIO())
        with log.open("a", encoding="utf-8") as said, contextlib.redirect_stderr(said), silent:
            sys.exit(main(arguments))


def soak(kills: int, seed: int, grid: tuple[str, ...], folder: Path) -> None:
    """Kill runs `kills` times, then let the last one finish. One that finishes earlier is compared, and another begun.

    Raises AssertionError where a table differs from that of a run left alone.
    """
    import optuna  # noqa: F401  (loaded before the forks, as are all libraries that a run loads)
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    runs, draw, begin = Soak(folder, grid), random.Random(seed), time.perf_counter()
    runs.finish("alone")
    whole = time.perf_counter() - begin
    hit, number = 0, 0
    while hit < kills:
        process = runs.start(f"killed-{number}")
        process.join(timeout=draw.uniform(0.0, min(whole, 3 * whole / kills)))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL:
            hit += 1
        else:
            assert process.exitcode == 0, runs.log(f"killed-{number}")
            runs.compare(f"killed-{number}")
            number += 1
    runs.finish(f"killed-{number}")
    runs.compare(f"killed-{number}")
    spent = time.perf_counter() - begin
    print(f"{kills} kills (seed {seed}) in {number + 1} runs of {whole:.0f} s: the tables are equal; {spent:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill runs of tiny at random moments, and compare their tables.")
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    os.chdir(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as name:
        soak(options.kills, options.seed, GRID + (QUICK if options.quick else ()), Path(name))
