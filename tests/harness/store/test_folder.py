"""Done means that a complete file says so. `test_broken.py` has the files that are not complete."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Cost, PlanFacts, Record
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.errors import StorageError, UsageError
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.store import folder as folder_module
from floe_bench.harness.store.folder import Store, read_arrays, read_items, write_arrays, write_items

ROOT = Path(__file__).parents[3]
IDENTITY = {"rows": "abc", "seed": 0}
CELL = Cell(method="lora:r=16", mix="dolly", seed=0)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", "tiny")


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def record(cell=CELL, key="0123", **content) -> Record:
    settings = load("tiny")
    required = {"profile": "tiny", "status": "ok", "identity": {"seed": 0}, "provenance": {"git": None}}
    return Record.model_validate({"cell": cell, "key": key, "settings": settings, **required, **content})


# --- stages -----------------------------------------------------------------------------------------


def test_a_stage_is_done_once_its_stage_file_is_there(store):
    folder = store.stage_folder("training", IDENTITY)
    assert store.find("training", IDENTITY) is None
    folder.mkdir(parents=True)
    files = write_arrays(folder / "arrays.safetensors", {"G": np.ones(3)})
    assert store.find("training", IDENTITY) is None
    kept = store.keep("training", IDENTITY, files, result={"loss": 0.5}, cost=Cost(seconds=2.5, tokens=7))
    assert store.find("training", IDENTITY) == kept
    assert json.loads((folder / "stage.json").read_text())["result"] == {"loss": 0.5}
    (folder / "stage.json").unlink()
    assert store.find("training", IDENTITY) is None


def test_stages_of_other_kinds_and_identities_are_others(store):
    store.keep("training", IDENTITY)
    assert store.find("probe", IDENTITY) is None
    assert store.find("training", IDENTITY | {"seed": 1}) is None
    assert store.find("training", dict(reversed(IDENTITY.items()))) is not None


def test_a_stage_survives_the_process(store):
    kept = store.keep("probe", IDENTITY, result={"nll": 1.25})
    again = Store(store.folder.parent, "tiny")
    assert again.find("probe", IDENTITY) == kept
    assert Store(store.folder.parent, "smoke").find("probe", IDENTITY) is None


# --- records ----------------------------------------------------------------------------------------


def test_a_record_comes_back_whole(store):
    written = record(
        scores={"mmlu": Score(metrics={"acc": 0.1 + 0.2}, chance=0.25, n_items=4, tokens=9, seconds=1 / 3)},
        planning_cost=Cost(seconds=1e-9, tokens=2**40),
        plan=PlanFacts(layers=(1, 3), details={"ρ": [0.1, None]}),
    )
    store.write(written)
    assert store.record(CELL, "0123") == written
    assert store.records() == [written]


def test_a_record_is_found_by_cell_and_key_alone(store):
    store.write(record())
    assert store.record(CELL, "4567") is None
    assert store.record(CELL.model_copy(update={"seed": 1}), "0123") is None


def test_cells_have_files_of_their_own_with_plain_names(store):
    cells = [
        Cell(method=method, mix=mix, seed=seed)
        for method in ("lora", "lora:r=16", "lora:r=16:target_modules=a+b")
        for mix in ("dolly", "of/other mix")
        for seed in (0, 10)
    ]
    for cell in cells:
        store.write(record(cell))
    files = list((store.folder / "records").iterdir())
    assert len(files) == len(cells)
    assert all("/" not in file.name and ":" not in file.name for file in files)
    assert {found.cell for found in store.records()} == set(cells)


def test_what_a_killed_write_left_behind_is_no_record(store):
    store.write(record())
    (store.folder / "records" / ".dolly--lora.json.x1y2.json").touch()
    assert store.records() == [record()]


def test_no_folder_holds_no_records(store):
    assert store.records() == []


# --- access -----------------------------------------------------------------------------------------


def test_a_file_in_the_way_of_the_folder_is_a_usage_error(tmp_path):
    (tmp_path / "results").touch()
    for access in (lambda store: store.ensure_writable(), lambda store: store.exclusively().__enter__()):
        with pytest.raises(UsageError, match=r"results folder .*results/tiny: cannot be made"):
            access(Store(tmp_path / "results", "tiny"))
    with pytest.raises(UsageError, match="cannot be made"):
        Store(tmp_path, "results").ensure_writable()


@pytest.mark.parametrize("part", ["", "records", "stages", "tables"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_a_folder_that_takes_no_writes_is_refused_before_anything_is_spent(part, number, store, monkeypatch):
    """Injected, as root may write anywhere."""
    (store.folder / part).mkdir(parents=True)
    written = folder_module._try_to_write

    def refuse(folder):
        if folder == store.folder / part:
            raise OSError(number, os.strerror(number))
        written(folder)

    monkeypatch.setattr(folder_module, "_try_to_write", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)), store.exclusively():
        pytest.fail("the run began")


def test_a_folder_where_a_part_is_a_file_is_refused(store):
    store.folder.mkdir(parents=True)
    (store.folder / "stages").touch()
    with pytest.raises(UsageError, match=r"results folder .* cannot be made"), store.exclusively():
        pytest.fail("the run began")


def test_making_sure_of_write_access_leaves_nothing(store):
    store.ensure_writable()
    store.ensure_writable()
    assert names_in(store.folder) == []


HOLD = """
import sys
from pathlib import Path
from floe_bench.harness.store.folder import Store
with Store(Path(sys.argv[1]), "tiny").exclusively():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_kept_out_until_the_first_ends(store):
    command = [sys.executable, "-c", HOLD, str(store.folder.parent)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=r"another run is writing to .*tiny"), store.exclusively():
            pass
        with Store(store.folder.parent, "smoke").exclusively():
            pass  # another profile is another folder
        other.kill()  # the lock of a killed run does not stay
        other.wait()
    with store.exclusively():
        pass


def test_the_lock_is_given_back_where_the_run_fails(store):
    with pytest.raises(RuntimeError), store.exclusively():
        raise RuntimeError
    with store.exclusively():
        pass


# --- arrays and items -------------------------------------------------------------------------------


def test_arrays_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 3))
    arrays = {
        "G": matrix,
        "transposed": matrix.T,
        "strided": matrix[::2, ::-1],
        "float32": rng.normal(size=4).astype(np.float32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324]),
        "counts": np.array([0, -1, 2**62]),
        "mask": np.array([True, False]),
        "scalar": np.array(0.1),
        "empty": np.zeros((0, 3)),
    }
    write_arrays(tmp_path / "deep" / "arrays.safetensors", arrays)
    found = read_arrays(tmp_path / "deep" / "arrays.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name


def test_items_come_back_bit_for_bit(tmp_path):
    items = pd.DataFrame(
        {
            "subject": ["anatomy", "ρ", "c"],
            "answer": [0, 3, 2],
            "nll": [0.1 + 0.2, np.inf, -0.0],
            "right": [True, False, True],
        },
        index=[7, 8, 9],
    )
    write_items(tmp_path / "items.parquet", items)
    found = read_items(tmp_path / "items.parquet")
    pd.testing.assert_frame_equal(found, items.reset_index(drop=True), check_exact=True)
    assert found["nll"].to_numpy().tobytes() == items["nll"].to_numpy().tobytes()
    assert names_in(tmp_path) == ["items.parquet"]


def test_records_are_found_by_cell_and_key(store):
    other = Cell(method="base", mix="dolly", seed=0)
    store.write(record())
    assert store.found({CELL: "0123", other: "4567"}) == {CELL: record(), other: None}
    assert store.found({CELL: "4567"}) == {CELL: None}
