"""Test the gate on real runs of the tiny profile: it catches planted regressions and passes clean repeats."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from rich.console import Console

from floe_bench.baselines import _stages
from floe_bench.harness.cli.main import main as command
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import main
from floe_bench.harness.floe import importance, selection
from floe_bench.harness.floe.tuner import layer, mask
from floe_bench.harness.gate import check, verdicts
from floe_bench.harness.gate.expectation import Expectation
from floe_bench.harness.gate.verdicts import Difference
from floe_bench.harness.model import base as base_model
from floe_bench.harness.run import evaluation_inputs
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import keys_of
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store import keys
from floe_bench.harness.store.folder import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

REPEATS = 20
TRAINED = 2
"""Repeats that plan and train again; the others, at a quarter of the time, only evaluate what the clean run trained."""

# Sixteen steps, so that a fault in the adapter shows; no questions, which take longer than all the rest.
OVERRIDES = {
    "methods": "floe,hydralora", "mixes": "dolly", "data.train_rows": 64, "train.epochs": 2,
    "search.trials": 2, "search.r_max": 3, "eval.evals": "validation_nll", "eval.primary": "validation_nll",
}  # fmt: skip
AS_OPTIONS = [part for key, value in OVERRIDES.items() if "." in key for part in ("--set", f"{key}={value}")]


def settings(**overrides) -> Settings:
    return profiles.load("tiny", OVERRIDES | overrides)


def run(results: Path, of: Settings) -> tuple[Store, dict[Cell, str]]:
    store = Store(results, "tiny")
    with (results.parent / f"{results.name}.log").open("w") as log, Progress(Console(file=log)) as progress:
        return store, run_grid(Session(of, store, progress.update), main.cells(of), progress).keys


def test_the_committed_expectation_of_tiny_names_what_a_run_plans(expected):
    """Else `check tiny` fails on every machine, whatever the numbers."""
    committed, clean = (
        Expectation.model_validate_json(path.read_text(encoding="utf-8"))
        for path in (ROOT / "results" / "tiny" / check.FILE, expected)
    )
    for label, cell in clean.cells.items():
        assert committed.cells[label].scores.keys() == cell.scores.keys()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The expectation of a clean run, with the run beside it."""
    folder = tmp_path_factory.mktemp("clean")
    store, of_cells = run(folder, settings())
    check.update(store, settings(), of_cells, store.folder / check.FILE)
    return store.folder / check.FILE


def checked(results: Path, expected: Path) -> list[Difference]:
    store, of_cells = run(results, settings())
    return check.check(store, settings(), of_cells, expected)


def keep_clean(expected: Path, results: Path, *but: str) -> None:
    """Make `results` the clean run without its records and stages of one kind, for the next run to make these."""
    shutil.copytree(expected.parent, results / "tiny", ignore=shutil.ignore_patterns("records", *but))


# --- planted regressions ------------------------------------------------------------------------------


def scaling(wrong: Callable[[int, float], float]) -> AbstractContextManager:
    """Every adapter's scale as `wrong(r, lora_alpha)`, instead of alpha / r."""
    right = layer.MoeLoraLayer.update_layer

    def update_layer(self, adapter_name, r, lora_alpha, num_experts, config):
        right(self, adapter_name, r, lora_alpha, num_experts, config)
        self.scaling[adapter_name] = wrong(r, lora_alpha)

    return patch.object(layer.MoeLoraLayer, "update_layer", update_layer)


def router_averaged_over_the_batch() -> AbstractContextManager:
    def gate(self, adapter_name, x):
        logits = self.moe_lora_router[adapter_name](x)
        return layer.gates(logits.mean(0, keepdim=True).expand_as(logits))

    return patch.object(layer.MoeLoraLinear, "_gate", gate)


def mask_off_by_one() -> AbstractContextManager:
    @contextmanager
    def layer_masks(model, batch_size: int) -> Iterator:
        with mask.layer_masks(model, batch_size) as (masks, layers):
            for k, modules in enumerate(mask._adapted_layers(model).values()):
                for j, module in enumerate(modules):
                    module.mask = masks[:, (k + 1) % len(layers), j]
            yield masks, layers

    return patch.object(importance, "layer_masks", layer_masks)


def picks_off_by_one() -> AbstractContextManager:
    right = selection.select

    def select(fisher, *arguments):
        return right(np.roll(fisher, 1), *arguments)

    return patch.object(selection, "select", select)


FAULTS = {
    "scale without division by r": lambda: scaling(lambda r, alpha: alpha),
    "scale by the root of r": lambda: scaling(lambda r, alpha: alpha / r**0.5),
    "half the scale": lambda: scaling(lambda r, alpha: alpha / r / 2),
    "router averaged over the batch": router_averaged_over_the_batch,
    "mask off by one layer": mask_off_by_one,
    "picks off by one layer": picks_off_by_one,
    "Fisher without the square": lambda: patch.object(
        _stages, "fisher_diagonal", lambda G: np.atleast_2d(G).mean(axis=0)
    ),
    "absolute Fisher instead of squared": lambda: patch.object(
        _stages, "fisher_diagonal", lambda G: np.abs(np.atleast_2d(G)).mean(axis=0)
    ),
}


IN_SELECTION = {
    "mask off by one layer",
    "picks off by one layer",
    "Fisher without the square",
    "absolute Fisher instead of squared",
}
"""Faults after the pilot's training and outside the adapter: the pilot is the clean run's, which saves its time."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_regression_is_caught(name, expected, tmp_path):
    if name in IN_SELECTION:
        keep_clean(expected, tmp_path, "measure-*")
    with FAULTS[name]():
        findings = checked(tmp_path, expected)
    caught = {(f.cell, f.quantity) for f in verdicts.regressions(findings)}
    assert caught, [(f.cell, f.quantity, f.found, f.detail) for f in findings]
    if name == "scale without division by r":  # a method without layer scores has its rows alone to be caught by
        assert ("dolly / hydralora / seed 0", "validation_nll rows") in caught


def test_a_fault_that_stops_the_cell_is_caught_with_its_error(expected, tmp_path):
    """A fresh adapter that changes the base model's logits: pre-flight refuses it, and the cell is missing."""
    right = layer.MoeLoraLayer.update_layer

    def update_layer(self, adapter_name, *arguments):
        right(self, adapter_name, *arguments)
        torch.nn.init.ones_(self.moe_lora_B[adapter_name].weight)

    with patch.object(layer.MoeLoraLayer, "update_layer", update_layer):
        findings = checked(tmp_path, expected)
    failed = verdicts.regressions(findings)
    assert [(f.quantity, f.found) for f in failed] == [("cell", "missing")] * 2
    assert all("changes the base model's logits" in f.detail for f in failed)


def test_a_dropped_seed_is_caught(expected, tmp_path):
    """Whether the profile lost it or its record is gone."""
    content = json.loads(expected.read_text())
    for label in list(content["cells"]):
        content["cells"][label.replace("seed 0", "seed 1")] = content["cells"][label]
    two_seeds = tmp_path / "expected.json"
    two_seeds.write_text(json.dumps(content))
    store = Store(expected.parent.parent, "tiny")
    for seeds in (1, 2):
        of = settings(seeds=seeds)
        findings = check.check(store, of, keys_of(Session(of, store), main.cells(of)), two_seeds)
        missing = {f.cell for f in verdicts.regressions(findings)}
        assert missing == {"dolly / floe / seed 1", "dolly / hydralora / seed 1"}


# --- clean repeats ------------------------------------------------------------------------------------


def another_machine(seed: int) -> AbstractContextManager:
    """Base weights off by 1e-6 of themselves, ten times float32's rounding: what other kernels would do at most.

    A repeat on the same machine is bit-identical and would prove nothing.
    """
    right = base_model.load_model

    def load_model(of):
        model = right(of)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1 + 1e-6 * torch.randn(weight.shape, generator=generator))
        return model

    return patch.object(base_model, "load_model", load_model)


@pytest.mark.parametrize("seed", range(REPEATS))
def test_a_clean_repeat_on_another_machine_is_not_flagged(seed, expected, tmp_path):
    if seed >= TRAINED:
        keep_clean(expected, tmp_path, "evaluation-*")
    with another_machine(seed):
        findings = checked(tmp_path, expected)
    assert not verdicts.regressions(findings), [(f.cell, f.quantity, f.detail) for f in verdicts.regressions(findings)]
    differences = [f.comparison.difference for f in findings if f.comparison]
    assert any(differences), "the repeat is bit-identical and proves nothing"


def test_other_evaluation_batches_are_not_flagged(expected, tmp_path):
    """The same settings in name, with every evaluation batch of one row."""
    keep_clean(expected, tmp_path, "evaluation-*")
    right = evaluation_inputs.row_nll
    with patch.object(evaluation_inputs, "row_nll", lambda model, examples, batch, pad: right(model, examples, 1, pad)):
        findings = checked(tmp_path, expected)
    assert not verdicts.regressions(findings)


# --- the command --------------------------------------------------------------------------------------


def gate_command(*arguments: str) -> int:
    options = ["--methods", "floe,hydralora", "--mixes", "dolly", *AS_OPTIONS]
    return command(["check", "tiny", *options, *arguments])


def unpadded(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(" +", " ", capsys.readouterr().out)


def test_the_command_says_ok_and_writes_markdown_and_junit(expected, tmp_path, capsys):
    results = ("--results", str(expected.parent.parent))
    files = ("--markdown", str(tmp_path / "gate.md"), "--junit", str(tmp_path / "gate.xml"))
    assert gate_command(*results, *files) == 0
    assert "check tiny: ok" in capsys.readouterr().out
    assert "ok" in (tmp_path / "gate.md").read_text() and 'failures="0"' in (tmp_path / "gate.xml").read_text()


def test_the_command_fails_on_a_regression_until_it_is_accepted(expected, tmp_path, capsys):
    shutil.copytree(expected.parent, tmp_path / "tiny")
    path = tmp_path / "tiny" / "expected.json"
    content = json.loads(path.read_text())
    content["cells"]["dolly / hydralora / seed 0"]["trainable_parameters"] += 1
    path.write_text(json.dumps(content))
    assert gate_command("--results", str(tmp_path)) == 1
    assert "REGRESSION" in capsys.readouterr().out
    assert gate_command("--results", str(tmp_path), "--update") == 0
    assert "| regression | dolly / hydralora / seed 0 | trainable_parameters |" in unpadded(capsys)
    assert gate_command("--results", str(tmp_path)) == 0
    assert path.read_text() == expected.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--set", "train.epochs=3"],
            "holds no run with this code and these settings: `floe-bench run tiny` makes one",
        ),
        (["--expected", "nowhere.json"], "there is no expectation nowhere.json"),
        (["--update", "--seeds", "2"], "2 of 4 cells are not finished"),
    ],
)
def test_wrong_use_is_told_with_the_command_to_run(arguments, said, expected, capsys):
    assert gate_command("--results", str(expected.parent.parent), *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_run_of_other_code_is_no_run(expected, tmp_path, capsys):
    """The records are there, under these settings and newest; but the code has changed since."""
    results = ("--results", str(expected.parent.parent))
    right = keys.engine
    with patch.object(keys, "engine", lambda: right() | {"floe_bench.harness.training.trainer": "other"}):
        assert gate_command(*results) == 2
        assert "holds no run with this code" in capsys.readouterr().err
        assert gate_command(*results, "--update", "--expected", str(tmp_path / "new.json")) == 2
        assert "2 of 2 cells are not finished" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_an_expectation_of_other_settings_is_refused(expected, tmp_path, capsys):
    content = json.loads(expected.read_text())
    content["settings"]["train"]["epochs"] = 5.0
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ["--results", str(expected.parent.parent), "--expected", str(tmp_path / "other.json")]
    assert gate_command(*arguments) == 2
    assert "other settings (train.epochs 5.0 -> 2.0)" in capsys.readouterr().err


def test_show_and_why_and_compare_on_the_run(expected, tmp_path, capsys):
    results = ["--results", str(expected.parent.parent)]
    assert command(["show", "tiny", "hydralora", *results]) == 0
    assert "dolly / hydralora / seed 0: ok" in capsys.readouterr().out
    assert command(["show", "tiny", "hydralora", "--json", *results]) == 0
    assert json.loads(capsys.readouterr().out)["cell"]["method"] == "hydralora"
    options = ["--methods", "floe,hydralora", "--mixes", "dolly", *AS_OPTIONS, *results]
    assert command(["why", "tiny", "hydralora", *options]) == 0
    assert capsys.readouterr().out.startswith("dolly / hydralora / seed 0: done")
    assert command(["why", "tiny", "hydralora", *options, "--set", "train.epochs=3"]) == 0
    assert "to do: settings.train.epochs 2.0 -> 3.0 (since" in capsys.readouterr().out
    assert command(["compare", str(expected.parent), str(expected.parent)]) == 0
    assert unpadded(capsys).count("| tie |") == 2
    assert command(["compare", str(expected.parent), "--methods", "floe,hydralora"]) == 0
    assert "floe against hydralora" in capsys.readouterr().out
