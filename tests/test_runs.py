"""Whole runs of the command on the tiny profile: repeated, extended, failing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .command import NLL_ALONE, ROOT, run, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run of LoRA; whoever changes them changes a copy."""
    results = tmp_path_factory.mktemp("lora")
    run(results, "--methods", "lora")
    return results


def test_a_finished_run_repeated_trains_nothing(ran_lora, tmp_path):
    shutil.copytree(ran_lora, tmp_path, dirs_exist_ok=True)
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
    only = ("--methods", "base", *NLL_ALONE)
    run(tmp_path / "results", *only, "--data-dir", str(tmp_path / "a" / "data"))
    said = run(tmp_path / "results", *only, "--data-dir", str(tmp_path / "b" / "data"))
    assert "1 already done" in said and len(table(tmp_path / "results")) == 1
    (record,) = (tmp_path / "results" / "tiny" / "records").glob("*.json")
    assert str(tmp_path) not in record.read_text()


def test_changed_questions_or_prose_are_not_taken_for_done(tmp_path):
    data = tmp_path / "data"
    shutil.copytree(ROOT / "tasks" / "data", data)
    only = ("--methods", "base", "--set", "eval.evals=pretrain_nll", "--set", "eval.primary=pretrain_nll")
    run(tmp_path, *only, "--data-dir", str(data))
    lines = (data / "pretrain.jsonl").read_text().splitlines()
    (data / "pretrain.jsonl").write_text("\n".join(lines[40:]))
    assert "1 cells: 0 done" in run(tmp_path, *only, "--data-dir", str(data))


def test_weights_left_out_of_a_copy_are_trained_again_when_needed(ran_lora, tmp_path):
    shutil.copytree(ran_lora, tmp_path, dirs_exist_ok=True)
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
    run(tmp_path, "--methods", "grid_rank,floe,topk_layers", *NLL_ALONE)
    stages = tmp_path / "tiny" / "stages"
    records = [json.loads(path.read_text()) for path in (tmp_path / "tiny" / "records").glob("*.json")]
    plans = {record["cell"]["method"]: record["plan"] for record in records}
    ranks = {t["r"] for name in ("grid_rank", "floe") for t in plans[name]["searched"]["trials"]}
    assert len(list(stages.glob("probe-*"))) == len(ranks)
    assert len(list(stages.glob("measure-*"))) == 2
    charged = {name: plan["cost_by_kind"]["pilot"]["tokens"] for name, plan in plans.items()}
    assert len(set(charged.values())) == 1 and min(charged.values()) > 0


def test_forgetting_is_measured_against_the_bare_model_even_if_it_was_not_run(ran_lora, tmp_path):
    """Regression: the base score must not be taken while an adapter is on the base model."""
    run(tmp_path, "--methods", "base,lora")
    alone, both = table(ran_lora), table(tmp_path)
    assert alone[0]["forgetting"] == both[1]["forgetting"] != 0.0


def test_a_diverging_training_is_a_failed_record_and_is_tried_again(tmp_path):
    diverging = ("--methods", "base,lora", "--set", "train.learning_rate=1e30", "--set", "train.epochs=3", *NLL_ALONE)
    assert "FAILED: floe_bench.harness.training.trainer.NonFiniteLoss" in run(tmp_path, *diverging, expect=1)
    (record,) = (tmp_path / "tiny" / "records").glob("*lora*.json")
    content = json.loads(record.read_text())
    assert content["status"] == "failed" and "Traceback" in content["error"]
    assert "1 done, 1 failed before and tried again" in run(tmp_path, *diverging, expect=1)
    assert [row["method"] for row in table(tmp_path)] == ["base"]


def test_gradient_checkpointing_changes_memory_and_not_numbers(tmp_path):
    only = ("--methods", "hydralora", *NLL_ALONE)
    run(tmp_path / "off", *only)
    run(tmp_path / "on", *only, "--set", "train.gradient_checkpointing=true")
    (on,), (off,) = table(tmp_path / "on"), table(tmp_path / "off")
    assert on["nll"] == pytest.approx(off["nll"], rel=1e-5)


def test_micro_batches_change_memory_and_not_the_loss(tmp_path):
    only = ("--methods", "hydralora", "--set", "adapter.lora_dropout=0", *NLL_ALONE)
    run(tmp_path / "whole", *only)
    run(tmp_path / "parts", *only, "--set", "train.micro_batch_size=2")
    (whole,), (parts,) = table(tmp_path / "whole"), table(tmp_path / "parts")
    assert parts["nll"] == pytest.approx(whole["nll"], rel=1e-3)
