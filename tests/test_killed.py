"""Whole runs of the command on the tiny profile, as processes that are killed or interrupted."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from .command import NLL_ALONE, ROOT, command, run, table

pytestmark = pytest.mark.slow


def kill_when(arguments: list[str], due: Callable[[], bool], signal_: int) -> int:
    """Start the command, send it the signal as soon as `due`, and return its exit code."""
    # A shell's background job ignores SIGINT, and so would its children: as a terminal's foreground job does, take it.
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not due():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal_)
    return process.wait(timeout=60)


LONG = (
    "--methods", "hydralora,floe", "--set", "train.checkpoint_steps=2", "--set", "train.epochs=3",
    "--set", "data.train_rows=64", "--set", "search.r_max=6", "--set", "search.trials=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    results = tmp_path_factory.mktemp("uninterrupted")
    run(results, *LONG)
    return table(results)


def test_a_run_killed_again_and_again_ends_in_the_table_of_an_uninterrupted_one(uninterrupted, tmp_path):
    """SIGKILL in the first training, in the pilot, and in the middle of the rank search."""
    stages = tmp_path / "tiny" / "stages"
    moments = [
        lambda: any(stages.glob("training-*/checkpoints/checkpoint-*/elapsed.json")),
        lambda: any(stages.glob("training-*/stage.json")) and any(stages.glob("measure-*")),
        lambda: len(list(stages.glob("probe-*/stage.json"))) >= 2,
    ]
    for due in moments:
        assert kill_when(command(tmp_path, *LONG), due, signal.SIGKILL) == -signal.SIGKILL
    run(tmp_path, *LONG)
    assert table(tmp_path) == uninterrupted
    assert not list(stages.glob("*/checkpoints"))


def test_ten_kills_at_random_moments_change_no_table():
    """`python tests/soak_kills.py` kills fifty times, on the whole of tiny. A failure names the seed."""
    seed = int(time.time())
    soak = [sys.executable, str(ROOT / "tests" / "soak_kills.py"), "10", "--quick", "--seed", str(seed)]
    done = subprocess.run(soak, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    assert "the tables are equal" in done.stdout


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(tmp_path):
    arguments = ("--methods", "base,lora,hydralora,floe", *NLL_ALONE)

    def due() -> bool:
        return any((tmp_path / "tiny" / "records").glob("[!.]*.json"))  # an unfinished file's name begins with a dot

    assert kill_when(command(tmp_path, *arguments), due, signal.SIGINT) == 130
    said = run(tmp_path, *arguments)
    assert re.search(r"4 cells: [1-3] done, 0 failed before and tried again, [1-3] to do", said)
    assert len(table(tmp_path)) == 4
