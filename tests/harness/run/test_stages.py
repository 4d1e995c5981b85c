"""The work that cells share: kept, found again, and made again where what was kept is broken."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import Stage
from floe_bench.harness.errors import StorageError
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model import adapters
from floe_bench.harness.run import stages
from floe_bench.harness.run.cell import run_cell
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store
from floe_bench.harness.training.trainer import NonFiniteLoss

from ...disk import largest_file

NLL_ALONE = {"eval.evals": "validation_nll", "eval.primary": "validation_nll", "eval.nll_mixes": "dolly"}


def session_at(folder: Path, said: list[str] | None = None, progress=lambda text: None, **overrides: Any) -> Session:
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    say = (lambda line: None) if said is None else said.append
    return Session(profiles.load("tiny", NLL_ALONE | changed), Store(folder, "tiny", say), progress)


def plan() -> AdapterPlan:
    modules = ["gate_proj", "up_proj", "down_proj"]
    return AdapterPlan("adapter", MoeLoraConfig(r=2, target_modules=modules, task_type="CAUSAL_LM"))


def trained(session: Session) -> Stage:
    return stages.run_training(session, session.mix("dolly").train, plan(), 0, session.trainable(plan()))


def probed(session: Session) -> Stage:
    rows = session.mix("dolly").train
    return stages.run_probe(session, rows[:8], rows[8:], plan(), 0)


def weights_of(session: Session, stage: Stage) -> bytes:
    folder = session.store.stage_folder("training", stage.identity)
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(stages, "train", lambda model, job: pytest.fail("trained again"))


# --- weights and checkpoints --------------------------------------------------------------------------


def test_every_file_of_an_adapter_is_in_its_manifest(tmp_path):
    session = session_at(tmp_path)
    stage = trained(session)
    folder = session.store.stage_folder("training", stage.identity)
    assert set(stage.files or ()) == {str(path.relative_to(folder)) for path in folder.glob("adapter/*")}
    assert "adapter/adapter_model.safetensors" in (stage.files or ())


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_was_altered_is_trained_again_to_the_same_weights(name, tmp_path):
    session = session_at(tmp_path)
    stage = trained(session)
    before = weights_of(session, stage)
    file = session.store.stage_folder("training", stage.identity) / "adapter" / name
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    said: list[str] = []
    again = session_at(tmp_path, said)
    with again.store.exclusively():
        assert weights_of(again, trained(again)) == before
    assert len(said) == 1 and f"its adapter/{name} was cut or altered" in said[0]


def test_a_broken_checkpoint_is_set_aside_and_the_training_begins_anew(tmp_path):
    settings = {"train__checkpoint_steps": 2, "train__epochs": 2.0}
    whole = session_at(tmp_path / "whole", **settings)
    expected = trained(whole)

    class Killed(Exception):
        pass

    def kill(text: str) -> None:
        if text.startswith("step 3/"):
            raise Killed

    with pytest.raises(Killed):
        trained(session_at(tmp_path / "parts", None, kill, **settings))
    (file,) = (tmp_path / "parts").rglob("checkpoint-2/optimizer.pt")
    file.write_bytes(file.read_bytes()[:100])
    said: list[str] = []
    session = session_at(tmp_path / "parts", said, **settings)
    stage = trained(session)
    assert weights_of(session, stage) == weights_of(whole, expected)
    assert stage.result["loss_curve"] == expected.result["loss_curve"]
    assert len(said) == 1 and "optimizer.pt of checkpoint-2" in said[0] and "checkpoints.broken" in said[0]
    assert file.parents[2].joinpath("checkpoints.broken", "checkpoint-2", "optimizer.pt").stat().st_size == 100


@pytest.mark.parametrize("adapts", ["adapter", "everything"])
def test_a_disk_too_full_for_the_weights_is_one_sentence_and_the_next_run_goes_on(adapts, tmp_path):
    session = session_at(tmp_path)
    chosen = plan() if adapts == "adapter" else AdapterPlan("everything")
    rows = session.mix("dolly").train
    size = 2_000 if adapts == "adapter" else 20_000
    where = "the temporary folder" if adapts == "adapter" else "adapter"
    with largest_file(size), pytest.raises(StorageError, match=f"{where}.* cannot be written"):
        stages.run_training(session, rows, chosen, 0, session.trainable(chosen))
    stage = stages.run_training(session, rows, chosen, 0, session.trainable(chosen))
    folder = session.store.stage_folder("training", stage.identity)
    assert session.store.find("training", stage.identity, weights=True) == stage
    with adapters.trained(session.base_model, adapts, folder / "adapter", session.settings):
        pass


# --- probes that diverge ------------------------------------------------------------------------------

DIVERGING = {"train__learning_rate": 1e30, "train__epochs": 3.0, "train__batch_size": 4, "train__micro_batch_size": 4}


def test_a_probe_whose_loss_diverges_is_kept_charged_and_not_tried_again(tmp_path, monkeypatch):
    stage = probed(session_at(tmp_path, **DIVERGING))
    assert stages.probe_nll(stage) == math.inf
    assert stage.result["nll"] is None and "the loss is nan" in stage.result["diverged"]
    assert stage.cost.seconds > 0 and stage.cost.tokens > 0
    monkeypatch.setattr(stages, "train", lambda model, job: pytest.fail("trained again"))
    assert probed(session_at(tmp_path, **DIVERGING)) == stage


def test_a_probe_that_diverges_at_its_last_step_is_told_by_its_judges(tmp_path, monkeypatch):
    def broken(model, job):
        outcome = train(model, job)
        next(p for p in model.parameters() if p.requires_grad).data.fill_(math.nan)
        return outcome

    train = stages.train
    monkeypatch.setattr(stages, "train", broken)
    stage = probed(session_at(tmp_path))
    assert stages.probe_nll(stage) == math.inf and stage.result["training"]["optimizer_steps"] > 0
    assert stage.cost.tokens > stage.result["training"]["tokens"]


def test_the_base_model_is_as_before_after_a_probe_that_diverged(tmp_path):
    session = session_at(tmp_path, **DIVERGING)
    before = {name: tensor.clone() for name, tensor in session.base.state_dict().items()}
    probed(session)
    after = session.base.state_dict()
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


# --- cells --------------------------------------------------------------------------------------------


def diverging(*ranks: int):
    """In place of training: a non-finite loss at these ranks, in probes of a search."""
    train = stages.train

    def chosen(model, job):
        probe = job.folder.name.startswith("probe-")
        if probe and model.peft_config["default"].r in ranks:
            raise NonFiniteLoss("the loss is nan at optimiser step 1", seconds=0.5, tokens=10)
        return train(model, job)

    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("method", ["floe", "grid_rank:step=1", "floe:shares=0.5+1.0"])
def test_a_search_goes_on_without_the_rank_that_diverges(method, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "train", diverging(3))
    session = session_at(tmp_path, search__trials=8)
    record = run_cell(resolve_cell(session, Cell(method=method, mix="dolly", seed=0)))
    assert record.status == "ok" and record.plan.r in (2, 4) and record.plan.searched
    assert {trial.r for trial in record.plan.searched.trials if trial.value is None} == {3}
    assert session.store.records() == [record]
    assert record.plan.cost_by_kind["probe"].count == record.plan.searched.unique_trainings


@pytest.mark.slow
def test_a_cell_of_which_every_rank_diverges_fails_with_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "train", diverging(2, 3, 4))
    record = run_cell(resolve_cell(session_at(tmp_path), Cell(method="floe", mix="dolly", seed=0)))
    assert record.status == "failed" and record.error
    last = record.error.strip().splitlines()[-1]
    assert "the validation loss was not finite at any rank that was tried" in last and "learning rate" in last


def test_what_the_disk_refuses_in_a_cell_is_no_failure_of_the_cell(tmp_path):
    session = session_at(tmp_path)
    resolved = resolve_cell(session, Cell(method="base", mix="dolly", seed=0))
    assert resolved.key
    with largest_file(100), pytest.raises(StorageError, match="cannot be written"):
        run_cell(resolved)
    assert session.store.records() == []
    assert run_cell(resolved).status == "ok"


def test_a_cell_with_a_number_that_no_record_can_hold_is_a_failed_record(tmp_path, monkeypatch):
    session = session_at(tmp_path)
    resolved = resolve_cell(session, Cell(method="base", mix="dolly", seed=0))
    made = AdapterPlan("nothing", details={"odd": math.nan})
    monkeypatch.setattr(resolved.method.plugin.load(), "plan", lambda inputs, options: made)
    record = run_cell(resolved)
    assert record.status == "failed" and "nan is not a finite number" in (record.error or "").casefold()
    assert session.store.records() == [record]


@pytest.mark.slow
def test_a_cell_is_made_again_from_what_is_left_whichever_stage_broke(tmp_path):
    """Same record but for times, and nothing trained that was whole."""
    session = session_at(tmp_path / "results")
    cell = Cell(method="floe", mix="dolly", seed=0)
    resolved = resolve_cell(session, cell)
    first = run_cell(resolved)
    for name in first.stages.all:
        folder = tmp_path / "results" / "tiny" / "stages" / name
        for file in [path for path in folder.iterdir() if path.is_file()]:
            copy = tmp_path / f"{name}-{file.name}"
            shutil.copytree(tmp_path / "results", copy)
            broken = copy / "tiny" / "stages" / name / file.name
            broken.write_bytes(broken.read_bytes()[:-40] + bytes(40))
            said: list[str] = []
            session.store = Store(copy, "tiny", said.append)
            with session.store.exclusively():
                assert session.store.record(cell, resolved.key) is None
                again = run_cell(resolved)
            assert len([line for line in said if "set aside" in line]) == 1
            assert again.stages == first.stages and again.plan.r == first.plan.r
            assert again.plan.scores == first.plan.scores
            assert {n: s.metrics for n, s in again.scores.items()} == {n: s.metrics for n, s in first.scores.items()}
            shutil.rmtree(copy)
