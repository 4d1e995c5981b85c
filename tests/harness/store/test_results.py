"""Which records may stand in one table, and what their stages kept."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Cost, Record
from floe_bench.harness.contracts.tables import SeveralMeasures, Table
from floe_bench.harness.errors import UsageError
from floe_bench.harness.experiments import main
from floe_bench.harness.report import tables
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store, write_arrays, write_items
from floe_bench.harness.store.results import StoredResults, matching

from ..records import SETTINGS, record


def accuracies(chosen: list[Record], method: str) -> list[float]:
    return [record.scores["mmlu_0shot"].metrics["acc"] for record in chosen if record.cell.method == method]


def test_only_records_of_these_settings_count_and_the_newest_wins(records):
    cells = main.cells(SETTINGS)
    other = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"epochs": 2.0})})
    extra = [record("floe", 0, 0.9, time="2026-02-01"), record("floe", 1, 0.9, time="2026-02-01", settings=other)]
    assert accuracies(matching([*records, *extra], SETTINGS, cells), "floe") == [0.9, 0.29, 0.31]


def test_a_cell_whose_newest_record_failed_is_missing_and_not_its_older_self(records):
    failed = record("floe", 2, 0.9, time="2026-02-01", status="failed")
    chosen = matching([*records, failed], SETTINGS, main.cells(SETTINGS))
    assert accuracies(chosen, "floe") == [0.27, 0.29]


@pytest.mark.parametrize("part", ["model", "engine", "text", "items", "versions"])
def test_records_of_another_model_code_or_data_never_share_a_table(part, records):
    identity = {"model": "m", "engine": "e"} | {part: "another"}
    newer = record("floe", 0, 0.9, time="2026-02-01", identity=identity)
    assert matching([*records, newer], SETTINGS, main.cells(SETTINGS)) == [newer]


def test_a_run_shows_the_records_under_its_own_keys_and_no_newer_ones(records):
    newer = record("floe", 0, 0.9, time="2026-02-01", key="another")
    cells = main.cells(SETTINGS)
    chosen = matching([*records, newer], SETTINGS, cells, dict.fromkeys(cells, "k"))
    assert accuracies(chosen, "floe") == [0.27, 0.29, 0.31]


def with_identity(record: Record, **parts) -> Record:
    return record.model_copy(update={"identity": record.identity | parts})


def test_records_of_other_rows_of_a_mix_never_share_a_table(records):
    old = [with_identity(record, data={"dolly": "old"}) for record in records]
    newer = with_identity(record("floe", 0, 0.9, time="2026-02-01"), data={"dolly": "new"})
    assert matching([*old, newer], SETTINGS, main.cells(SETTINGS)) == [newer]


def test_records_of_changed_code_never_stand_beside_the_new_whichever_method_is_run_again(records):
    """A tuner that two methods share was changed, and one of them run again; `full` does not use it."""
    code = {"full": {"baselines.full": "1"}, "floe": {"baselines.floe": "1", "tuner": "old"}}
    old = [with_identity(record, method=code[record.cell.method]) for record in records]
    newer = with_identity(record("floe", 0, 0.9, time="2026-02-01"), method={"baselines.floe": "1", "tuner": "new"})
    chosen = matching([*old, newer], SETTINGS, main.cells(SETTINGS))
    assert [(r.cell.method, r.cell.seed) for r in chosen] == [("full", 0), ("floe", 0), ("full", 1), ("full", 2)]


def test_every_record_shows_the_primary_evaluation_that_is_asked_for_now(records):
    """eval.primary changes no result: records made under two of them share a table, under the one asked for."""
    other = SETTINGS.model_copy(update={"eval": SETTINGS.eval.model_copy(update={"primary": "validation_nll"})})
    mixed = [records[0], *(record.model_copy(update={"settings": other}) for record in records[1:])]
    assert {r.settings.eval.primary for r in matching(mixed, SETTINGS, main.cells(SETTINGS))} == {"mmlu_0shot"}


# --- cells that vary settings -----------------------------------------------------------------------


def varied(key: str, value: float, **changes) -> Record:
    """The finished record of a cell that varies one setting, as a run would write it."""
    cell = Cell(method="floe", mix="dolly", seed=0, varied=((key, value),))
    return record("floe", 0, 0.5, cell=cell, settings=profiles.vary(SETTINGS, {key: value}), **changes)


def test_varied_cells_are_found_each_under_its_own_settings(records):
    swept = [varied("selection.layer_fraction", share) for share in (0.25, 0.75)]
    cells = [each.cell for each in swept] + main.cells(SETTINGS)
    assert matching([*records, *swept], SETTINGS, cells) == swept + matching(records, SETTINGS, main.cells(SETTINGS))
    results = StoredResults(Store(Path(), "tiny"), SETTINGS, cells, records=[*records, *swept])
    assert [results.find(each.cell) for each in swept] == swept
    assert results.find(main.cells(SETTINGS)[0]) in records


def test_a_varied_cell_under_another_profile_is_not_found():
    other = profiles.vary(SETTINGS, {"train.epochs": 3.0, "selection.layer_fraction": 0.25})
    found = varied("selection.layer_fraction", 0.25).model_copy(update={"settings": other})
    assert matching([found], SETTINGS, [found.cell]) == []


def test_a_varied_cell_never_stands_for_the_plain_one_nor_for_another_value(records):
    swept = varied("selection.layer_fraction", 0.25)
    assert matching([swept], SETTINGS, main.cells(SETTINGS)) == []
    assert matching([*records, swept], SETTINGS, [varied("selection.layer_fraction", 0.75).cell]) == []


def test_cells_may_differ_in_what_the_settings_that_they_vary_decide(records):
    """Another depth is another model; the others' model is still one."""
    deep = varied("model.config.num_hidden_layers", 8, identity={"model": "deep", "engine": "e"})
    assert deep in matching([*records, deep], SETTINGS, [deep.cell, *main.cells(SETTINGS)])


def test_cells_may_not_differ_in_what_their_settings_do_not_decide(records):
    """A sweep of the layer fraction whose prose changed half-way is two tables."""
    newer = varied("selection.layer_fraction", 0.25, time="2026-02-01", identity=records[0].identity | {"text": "new"})
    assert matching([*records, newer], SETTINGS, [newer.cell, *main.cells(SETTINGS)]) == [newer]


# --- what stages kept -------------------------------------------------------------------------------

G, H = np.arange(6.0).reshape(2, 3), np.ones((2, 3))


@pytest.fixture
def stored(tmp_path) -> tuple[StoredResults, Record]:
    """One record whose planning used a pilot, three measures and a probe, all on disk, and one evaluation."""
    store = Store(tmp_path, "tiny")

    def measure(scorer: str, array: np.ndarray, **parameters) -> str:
        identity = {"scorer": f"harness.floe.made.{scorer}", "parameters": parameters}
        files = write_arrays(store.stage_folder("measure", identity) / "arrays.safetensors", {"G": array})
        return store.keep("measure", identity, files, cost=Cost(seconds=2.0, tokens=3)).folder

    evaluation = {"evaluation": "mmlu_0shot"}
    items = store.stage_folder("evaluation", evaluation) / "items.parquet"
    files = write_items(items, pd.DataFrame({"answer": [1, 0]}))
    stages = {
        "planning": [
            measure("gradients", G),
            measure("drawn", G, seed=0, draws=1),
            measure("drawn", H, seed=1, draws=1),
            store.keep("probe", {"r": 4}, result={"nll": 2.0}).folder,
            store.keep("training", {"pilot": True}).folder,
        ],
        "evaluations": {"mmlu_0shot": store.keep("evaluation", evaluation, files).folder},
    }
    made = record("floe", 0, 0.5, stages=stages)
    return StoredResults(store, SETTINGS, [made.cell], records=[made]), made


def test_stages_are_those_of_planning_with_what_they_cost_and_found(stored):
    results, made = stored
    kept = results.stages(made)
    assert [stage.kind for stage in kept] == ["measure", "measure", "measure", "probe", "training"]
    assert kept[0].cost.seconds == 2.0 and kept[3].result == {"nll": 2.0}


def test_arrays_are_found_by_scorer_and_parameters(stored):
    results, made = stored
    np.testing.assert_array_equal(results.arrays(made, "gradients")["G"], G)
    np.testing.assert_array_equal(results.arrays(made, "drawn", seed=0)["G"], G)
    np.testing.assert_array_equal(results.arrays(made, "drawn", seed=1)["G"], H)
    np.testing.assert_array_equal(results.arrays(made, "drawn", seed=1, draws=1)["G"], H)


def test_what_was_not_measured_is_none(stored):
    results, made = stored
    assert results.arrays(made, "taylor") is None
    assert results.arrays(made, "drawn", seed=2) is None
    assert results.arrays(made, "gradients", seed=0) is None
    assert results.arrays(made, "radients") is None


def test_several_measures_that_match_are_not_chosen_between(stored):
    results, made = stored
    with pytest.raises(SeveralMeasures, match="2 measures of drawn"):
        results.arrays(made, "drawn", draws=1)


def test_items_are_the_evaluations(stored):
    results, made = stored
    assert results.items(made, "mmlu_0shot")["answer"].tolist() == [1, 0]
    with pytest.raises(UsageError, match="evaluation of dolly / floe / seed 0: 'mmlu_0sho': did you mean mmlu_0shot"):
        results.items(made, "mmlu_0sho")


@pytest.mark.parametrize("file", ["stage.json", "arrays.safetensors", "items.parquet"])
def test_a_record_whose_stage_lost_a_file_does_not_count_and_the_others_do(file, stored, capsys):
    results, made = stored
    other = record("full", 0, 0.5)
    for gone in (results.store.folder / "stages").glob(f"*/{file}"):
        gone.unlink()
    fresh = Store(results.store.folder.parent, "tiny")
    again = StoredResults(fresh, SETTINGS, [made.cell, other.cell], records=[made, other])
    assert again.records == [other]
    assert made.stages.planning[0] in capsys.readouterr().err or file == "items.parquet"


# --- runs, reports and the tables between them ------------------------------------------------------


def overview(results: StoredResults) -> list[Table]:
    """A table that reads all that results offer."""
    frame = pd.DataFrame(
        {
            "cell": record.cell.label,
            "nll": record.scores["validation_nll"].metrics["nll_dolly"],
            "rows": len(results.items(record, "validation_nll")),
            "gradients": float(arrays["G"].sum()) if (arrays := results.arrays(record, "fisher_gradients")) else 0.0,
        }
        for record in results.records
    )
    return [Table("overview", "Overview", frame, frame)]


@pytest.mark.slow
def test_a_report_finds_what_a_run_of_varied_cells_wrote_and_writes_the_same_bytes(tmp_path):
    only = {"eval.evals": "validation_nll", "eval.primary": "validation_nll", "eval.nll_mixes": "dolly"}
    settings, store = profiles.load("tiny", only), Store(tmp_path, "tiny")
    cells = [Cell(method="layer_scores", mix="dolly", seed=0)] + [
        Cell(method=method, mix="dolly", seed=0, varied=(setting,))
        for method, setting in [
            ("layer_scores", ("data.pilot_fraction", 1.0)),
            ("layer_scores", ("model.config.num_hidden_layers", 2)),
            ("base", ("data.validation_rows", 4)),
        ]
    ]
    outcome = run_grid(Session(settings, store), cells, Progress())
    assert (outcome.ran, outcome.failed) == (4, 0)
    tables.write(overview(StoredResults(store, settings, cells, outcome.keys)), tmp_path / "tables")
    written = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    shutil.rmtree(tmp_path / "tables")
    again = StoredResults(store, settings, cells)
    assert [record.cell for record in again.records] == cells
    tables.write(overview(again), tmp_path / "tables")
    assert {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == written
    assert [len(again.items(record, "validation_nll")) for record in again.records] == [8, 8, 8, 4]
    G = [again.arrays(record, "fisher_gradients") for record in again.records]
    assert [arrays["G"].shape[1] if arrays else None for arrays in G] == [4, 4, 2, None]
    unrun = [cell.model_copy(update={"varied": (("data.pilot_fraction", 0.25),)}) for cell in cells[:1]]
    assert StoredResults(store, settings, unrun).records == []
