"""Names of cells, a record as text, and why a cell is or is not done."""

import pytest

from floe_bench.harness.cli.cell_names import find_cell, find_record
from floe_bench.harness.cli.show import to_text
from floe_bench.harness.cli.why import differences, why
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import digest
from floe_bench.harness.store.folder import Store

from ..records import record

IDENTITY = {
    "cell": {"method": "floe"}, "settings": {"train": {"epochs": 1.0}, "eval": {"evals": ["a"]}},
    "method": {"baselines.floe": "1", "harness.floe.selection": "1"}, "other_methods": {},
    "mix": {"tasks.mixes.dolly": "1"}, "evaluations": {"mmlu_0shot": {"tasks.evals._mmlu": "1"}}, "engine": "1",
    "data": {"dolly": "1"}, "text": "1", "items": {"mmlu_0shot": "1"}, "model": "w", "versions": {"torch": "2.13"},
}  # fmt: skip


def stored(store: Store, method: str, seed: int, identity: dict = IDENTITY, **changes) -> Record:
    plan = {"adapts": "adapter", "layers": [0, 1], "r": 2, "trainable_parameters": 100, "base_parameters": 1000}
    details = {"scores": {"taylor": [0.123456, 2.0]}, "cost_by_kind": {"pilot": {"count": 1, "seconds": 1.5}}}
    found = record(method, seed, 0.3, key=digest(identity), identity=identity, plan=plan | details, **changes)
    store.write(found)
    return found


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path, "tiny")
    for method in ("floe", "lora", "lora:r=16"):
        for seed in (0, 1):
            stored(store, method, seed)
    return store


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("floe / seed 1", "dolly / floe / seed 1"),
        ("FLOE--seed0", "dolly / floe / seed 0"),
        ("dolly / lora / seed 0", "dolly / lora / seed 0"),
        ("lora-r=16--seed1", "dolly / lora:r=16 / seed 1"),
    ],
)
def test_any_unambiguous_part_of_a_label_or_file_name_finds_the_record(text, label, store):
    assert find_record(store, text).cell.label == label


def test_an_ambiguous_or_unknown_name_is_refused_with_the_nearest(store):
    with pytest.raises(UsageError, match=r"'floe' may mean 2 cells: dolly / floe / seed 0 or dolly / floe / seed 1"):
        find_record(store, "floe")
    with pytest.raises(UsageError, match=r"unknown cell 'dolly / flow / seed 0': did you mean dolly / floe / seed 0"):
        find_record(store, "dolly / flow / seed 0")
    with pytest.raises(UsageError, match="holds no record"):
        find_record(Store(store.folder, "none"), "floe")


def test_of_several_records_of_a_cell_the_newest_is_shown_and_a_key_names_any(store):
    older = find_record(store, "floe / seed 0")
    newer = stored(store, "floe", 0, IDENTITY | {"engine": "2"}, provenance={"time": "2026-02-01"})
    assert find_record(store, "floe / seed 0").key == newer.key
    assert find_record(store, f"floe--seed0--{older.key}").key == older.key


def test_a_cell_of_the_grid_is_found_by_its_label():
    cells = [Cell(method=method, mix="dolly", seed=0) for method in ("lora", "lora:r=16")]
    assert find_cell(cells, "dolly / lora / seed 0") == cells[0]
    assert find_cell(cells, "r=16") == cells[1]
    with pytest.raises(UsageError, match="may mean 2 cells"):
        find_cell(cells, "lora")


def test_a_record_as_text_holds_what_it_decided_cost_and_scored(store):
    text = to_text(find_record(store, "floe / seed 0"), "name.json")
    for part in (
        "dolly / floe / seed 0: ok", "name.json", "layers [0, 1], r 2, 100 parameters (10.000%)",
        "taylor: [0.1235, 2]", "pilot: seconds 1.5, tokens 0, count 1", "nll_dolly", "100 items, chance 25%",
    ):  # fmt: skip
        assert part in text


def test_a_failed_record_shows_its_traceback(store):
    failed = stored(store, "full", 0, status="failed", error="Traceback\nValueError: here")
    assert to_text(failed, "name").endswith("Traceback\nValueError: here")


def test_why_says_done_failed_or_what_differs_from_the_nearest_record(store):
    cell = Cell(method="floe", mix="dolly", seed=0)
    assert why(store, cell, IDENTITY).startswith("dolly / floe / seed 0: done (dolly--floe--seed0--")
    stored(store, "floe", 0, IDENTITY | {"model": "v", "engine": "2"})
    now = IDENTITY | {"settings": {"train": {"epochs": 2.0}, "eval": {"evals": ["a"]}}}
    assert ": to do: settings.train.epochs 1.0 -> 2.0 (since dolly--floe--seed0--" in why(store, cell, now)
    stored(store, "floe", 0, now, status="failed", error="Traceback\nValueError: here")
    assert "failed, and tried again by the next run: ValueError: here" in why(store, cell, now)
    assert "to do: no run of it" in why(store, Cell(method="base", mix="dolly", seed=0), IDENTITY)


@pytest.mark.parametrize(
    ("component", "value", "phrase"),
    [
        ("settings", {"train": {"epochs": 1.0}, "eval": {"evals": []}}, 'settings.eval.evals ["a"] -> []'),
        ("method", {"baselines.floe": "2", "harness.floe.selection": "1"}, "code of baselines.floe changed"),
        ("method", {"baselines.floe": "1"}, "code of harness.floe.selection is gone"),
        ("mix", {"tasks.mixes.dolly": "2"}, "code of tasks.mixes.dolly changed"),
        ("evaluations", {"mmlu_0shot": {"tasks.evals._mmlu": "2"}}, "code of tasks.evals._mmlu changed"),
        ("other_methods", {"floe": {"baselines.floe": "1"}}, "code of baselines.floe is new"),
        ("engine", "2", "code of the engine changed"),
        ("engine", {"harness.train": "2"}, "code of harness.train is new"),
        ("data", {"dolly": "2"}, "rows of mix 'dolly' changed"),
        ("items", {"mmlu_0shot": "2"}, "items of evaluation 'mmlu_0shot' changed"),
        ("text", "2", "plain text changed"),
        ("model", "v", 'model "w" -> "v"'),
        ("versions", {"torch": "2.14"}, 'versions.torch "2.13" -> "2.14"'),
    ],
)  # fmt: skip
def test_each_component_of_an_identity_has_its_phrase(component, value, phrase):
    assert phrase in differences(IDENTITY, IDENTITY | {component: value})
    assert differences(IDENTITY, IDENTITY) == []
