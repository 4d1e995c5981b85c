"""Whole runs of the command on the tiny profile: killed, interrupted, failing, repeated, extended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

# What a run's table says besides times and memory, which no two runs share.
EXACT = (
    "mix", "method", "seeds", "accuracy", "nll", "layers", "r", "forgetting", "trainable_parameters",
    "adapter_bytes", "training_tokens", "planning_tokens",
)  # fmt: skip


def command(results: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "floe_bench",
        "run",
        "tiny",
        "--mixes",
        "dolly",
        "--results",
        str(results),
        *arguments,
    ]


def run(results: Path, *arguments: str, cwd: Path = ROOT, expect: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command(results, *arguments), capture_output=True, text=True, cwd=cwd, timeout=300)
    assert ran.returncode == expect, ran.stderr
    return ran


def table(results: Path) -> list[dict]:
    rows = json.loads((results / "tiny" / "tables" / "main.json").read_text())["rows"]
    return [{key: row[key] for key in EXACT} for row in rows]


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
        lambda: any(path for path in stages.glob("training-*/stage.json")) and any(stages.glob("measure-*")),
        lambda: len(list(stages.glob("probe-*/stage.json"))) >= 2,
    ]
    for due in moments:
        assert kill_when(command(tmp_path, *LONG), due, signal.SIGKILL) == -signal.SIGKILL
    run(tmp_path, *LONG)
    assert table(tmp_path) == uninterrupted
    assert not list(stages.glob("*/checkpoints"))


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(tmp_path):
    def due() -> bool:
        return any((tmp_path / "tiny" / "records").glob("*.json"))

    assert kill_when(command(tmp_path, "--methods", "base,lora,hydralora,floe"), due, signal.SIGINT) == 130
    ran = run(tmp_path, "--methods", "base,lora,hydralora,floe")
    assert re.search(r"4 cells: [1-3] done, 0 failed before and tried again, [1-3] to do", ran.stderr)
    assert len(table(tmp_path)) == 4


def test_a_finished_run_repeated_trains_nothing(tmp_path):
    run(tmp_path, "--methods", "lora")
    stages = sorted((tmp_path / "tiny" / "stages").glob("*/stage.json"))
    before = {path: path.stat().st_mtime_ns for path in stages}
    code = (
        "import sys\nfrom floe_bench.harness.cli.main import main\n"
        f"main(['run', 'tiny', '--mixes', 'dolly', '--methods', 'lora', '--results', {str(tmp_path)!r}])\n"
        "print(sorted({'torch', 'transformers', 'peft', 'datasets', 'lm_eval', 'optuna'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "1 already done" in ran.stderr
    assert ran.stdout.rstrip().endswith("[]"), "finding out that all is done loaded what computes"
    assert {
        path: path.stat().st_mtime_ns for path in sorted((tmp_path / "tiny" / "stages").glob("*/stage.json"))
    } == before


def test_a_new_evaluation_does_not_retrain(tmp_path):
    run(tmp_path, "--methods", "floe", "--set", "eval.evals=mmlu_0shot,validation_nll")
    trained = sorted((tmp_path / "tiny" / "stages").glob("[mpt]*-*"))
    run(tmp_path, "--methods", "floe", "--set", "eval.evals=mmlu_0shot,validation_nll,mmlu_continuation")
    assert sorted((tmp_path / "tiny" / "stages").glob("[mpt]*-*")) == trained


def test_a_record_holds_no_folder_of_this_machine_and_is_found_from_another(tmp_path):
    """The same data and weights under another path are the same cell."""
    for name in ("a", "b"):
        shutil.copytree(ROOT / "tasks" / "data", tmp_path / name / "data")
    only = ("--methods", "base", "--set", "eval.evals=validation_nll", "--set", "eval.primary=validation_nll")
    run(tmp_path / "results", *only, "--data-dir", str(tmp_path / "a" / "data"))
    ran = run(tmp_path / "results", *only, "--data-dir", str(tmp_path / "b" / "data"))
    assert "1 already done" in ran.stderr and len(table(tmp_path / "results")) == 1
    (record,) = (tmp_path / "results" / "tiny" / "records").glob("*.json")
    assert str(tmp_path) not in record.read_text()


def test_changed_questions_or_prose_are_not_taken_for_done(tmp_path):
    data = tmp_path / "data"
    shutil.copytree(ROOT / "tasks" / "data", data)
    only = ("--methods", "base", "--set", "eval.evals=pretrain_nll", "--set", "eval.primary=pretrain_nll")
    run(tmp_path, *only, "--data-dir", str(data))
    lines = (data / "pretrain.jsonl").read_text().splitlines()
    (data / "pretrain.jsonl").write_text("\n".join(lines[40:]))
    assert "1 cells: 0 done" in run(tmp_path, *only, "--data-dir", str(data)).stderr


def test_weights_left_out_of_a_copy_are_trained_again_when_needed(tmp_path):
    run(tmp_path, "--methods", "lora")
    before = table(tmp_path)
    for folder in (tmp_path / "tiny" / "stages").glob("training-*/adapter"):
        shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "tiny" / "records")
    for folder in (tmp_path / "tiny" / "stages").glob("evaluation-*"):
        shutil.rmtree(folder)
    run(tmp_path, "--methods", "lora")
    assert table(tmp_path) == before


def test_methods_share_stages_and_each_is_charged(tmp_path):
    """grid_rank and floe choose among the same layers: one pilot, one of each score, each rank trained once."""
    run(tmp_path, "--methods", "grid_rank,floe,topk_layers")
    stages = tmp_path / "tiny" / "stages"
    records = [json.loads(path.read_text()) for path in (tmp_path / "tiny" / "records").glob("*.json")]
    plans = {record["cell"]["method"]: record["plan"] for record in records}
    ranks = {t["r"] for name in ("grid_rank", "floe") for t in plans[name]["searched"]["trials"]}
    assert len(list(stages.glob("probe-*"))) == len(ranks)
    assert len(list(stages.glob("measure-*"))) == 2
    charged = {name: plan["cost_by_kind"]["pilot"]["tokens"] for name, plan in plans.items()}
    assert len(set(charged.values())) == 1 and min(charged.values()) > 0


def test_forgetting_is_measured_against_the_bare_model_even_if_it_was_not_run(tmp_path):
    """Regression: the base score must not be taken while an adapter is on the base model."""
    run(tmp_path / "alone", "--methods", "lora")
    run(tmp_path / "with", "--methods", "base,lora")
    alone, both = table(tmp_path / "alone"), table(tmp_path / "with")
    assert alone[0]["forgetting"] == both[1]["forgetting"] != 0.0


def test_a_diverging_training_is_a_failed_record_and_is_tried_again(tmp_path):
    diverging = ("--methods", "base,lora", "--set", "train.learning_rate=1e30", "--set", "train.epochs=3")
    ran = run(tmp_path, *diverging, expect=1)
    assert "FAILED: floe_bench.harness.training.trainer.NonFiniteLoss" in ran.stderr
    (record,) = (tmp_path / "tiny" / "records").glob("*lora*.json")
    content = json.loads(record.read_text())
    assert content["status"] == "failed" and "Traceback" in content["error"]
    assert "1 done, 1 failed before and tried again" in run(tmp_path, *diverging, expect=1).stderr
    assert [row["method"] for row in table(tmp_path)] == ["base"]


def test_gradient_checkpointing_changes_memory_and_not_numbers(tmp_path):
    run(tmp_path / "off", "--methods", "hydralora")
    run(tmp_path / "on", "--methods", "hydralora", "--set", "train.gradient_checkpointing=true")
    (on,), (off,) = table(tmp_path / "on"), table(tmp_path / "off")
    assert on["nll"] == pytest.approx(off["nll"], rel=1e-5)


def test_micro_batches_change_memory_and_not_the_loss(tmp_path):
    run(tmp_path / "whole", "--methods", "hydralora", "--set", "adapter.lora_dropout=0")
    run(
        tmp_path / "parts",
        "--methods",
        "hydralora",
        "--set",
        "adapter.lora_dropout=0",
        "--set",
        "train.micro_batch_size=2",
    )
    (whole,), (parts,) = table(tmp_path / "whole"), table(tmp_path / "parts")
    assert parts["nll"] == pytest.approx(whole["nll"], rel=1e-3)


def readme_method() -> tuple[str, str]:
    """The file that the README shows for a new method: its name and its text."""
    found = re.search(r"`baselines/(\w+)\.py`:\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "the README shows no new method"
    return found.group(1), found.group(2)


def test_the_readmes_new_method_is_listed_conforms_and_runs_with_no_other_file_touched(tmp_path):
    name, text = readme_method()
    assert len(text.splitlines()) <= 15
    copy = tmp_path / "project"
    shutil.copytree(
        ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache")
    )
    (copy / "baselines" / f"{name}.py").write_text(text)
    python = [sys.executable, "-m"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    listed = subprocess.run([*python, "floe_bench", "list"], capture_output=True, text=True, cwd=copy, env=environment)
    assert f"baselines/{name}.py" in listed.stdout
    ran = subprocess.run(
        [*python, "floe_bench", "run", "tiny", "--mixes", "dolly", "--methods", name], capture_output=True, text=True,
        cwd=copy, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0 and name in ran.stdout, ran.stderr
    suite = subprocess.run(
        [*python, "pytest", "tests/conformance/test_methods.py", "-k", f"[{name}]", "-q"], capture_output=True,
        text=True, cwd=copy, env=environment,
    )  # fmt: skip
    assert suite.returncode == 0 and "8 passed" in suite.stdout, suite.stdout
