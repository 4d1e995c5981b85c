"""What is broken on disk is noticed and said once. A run sets it aside; whatever only reads leaves it as it is."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness import files
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.store.folder import Store, read_arrays, write_arrays, write_items

G = np.arange(60.0).reshape(20, 3)
MEASURE, EVALUATION, TRAINING, PROBE = {"scorer": "s"}, {"evaluation": "e"}, {"rows": "r"}, {"rank": 4}
CELL, OTHER = (Cell(method=method, mix="dolly", seed=0) for method in ("floe", "lora"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    """One record that rests on a stage of each kind, and one that rests on none."""
    store = Store(tmp_path, "tiny", said.append)
    arrays = write_arrays(store.stage_folder("measure", MEASURE) / "arrays.safetensors", {"G": G})
    items = write_items(store.stage_folder("evaluation", EVALUATION) / "items.parquet", pd.DataFrame({"nll": [1.0, 2]}))
    weights = write_arrays(store.stage_folder("training", TRAINING) / "adapter" / "weights.safetensors", {"A": G})
    stages = {
        "measure": store.keep("measure", MEASURE, arrays),
        "evaluation": store.keep("evaluation", EVALUATION, items),
        "training": store.keep("training", TRAINING, {f"adapter/{name}": sha for name, sha in weights.items()}),
        "probe": store.keep("probe", PROBE, result={"nll": 2.0, "other": 1.0}),
    }
    used = {
        "planning": [stages["measure"].folder, stages["probe"].folder],
        "training": stages["training"].folder,
        "evaluations": {"e": stages["evaluation"].folder},
    }
    store.write(record(CELL, stages=used))
    store.write(record(OTHER))
    return store


def record(cell: Cell, **content) -> Record:
    required = {"profile": "tiny", "status": "ok", "identity": {"seed": 0}, "provenance": {"time": "2026-01-01"}}
    planning = {"seconds": 0.5, "tokens": 7}
    return Record.model_validate(
        {"cell": cell, "key": "0123", "settings": load("tiny"), "planning_cost": planning, **required, **content}
    )


def everything(store: Store) -> dict[str, bytes | None]:
    """Path -> content of all that lies in the folder; None for what is no file."""
    paths = (path for path in store.folder.rglob("*") if path.name != ".lock")
    return {str(path.relative_to(store.folder)): path.read_bytes() if path.is_file() else None for path in paths}


# --- ways to break a file ---------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flip one bit near the end."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_a_pipe(path: Path) -> None:
    """Opening it would wait for a writer."""
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def replaced_by_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def text(replace: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: path.write_text(replace(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_values(**values) -> Callable[[Path], None]:
    """Rewrite the JSON with other values; None takes a key away."""

    def change(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


FILES = {
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": flip,
    "zeros, as after a power cut": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer than it was": lambda path: path.write_bytes(path.read_bytes() + b" 1"),
    "a folder": replaced_by_a_folder,
    "a pipe": replaced_by_a_pipe,
    "a link to nowhere": replaced_by_a_link_to_nowhere,
    "a link to itself": replaced_by_a_link_to_itself,
}
JSON = FILES | {
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "a text": lambda path: path.write_text('"text"'),
    "another program's": lambda path: path.write_text('{"name": "x"}'),
    "nested too deeply": lambda path: path.write_text("[" * 100_000 + "]" * 100_000),
    "not UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b'"key"', b'"k\xffy"')),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "NaN": text(lambda content: content.replace(": 1.0", ": NaN").replace(": 0.5", ": NaN")),
    "Infinity": text(lambda content: content.replace(": 1.0", ": -Infinity").replace(": 0.5", ": Infinity")),
    "beyond a float": text(lambda content: content.replace(": 1.0", ": 1e999").replace(": 0.5", ": 1e999")),
    "beyond 64 bits": text(lambda content: content.replace(": 1.0", f": {10**30}").replace(": 0.5", f": {10**30}")),
    "beyond Python's digits": text(lambda content: content.replace('"key":', f'"n": {"9" * 5000}, "key":')),
    "a key twice": text(lambda content: content.replace('"key":', '"key": "0123", "key":')),
    "a number altered": text(lambda content: content.replace(": 1.0", ": 1.5").replace(": 0.5", ": 0.25")),
    "a text altered": with_values(provenance={"time": "2027-01-01"}),
    "a key gone": with_values(identity=None),
    "a key too many": with_values(surplus=1),
    "without its digest": with_values(digest=None),
    "of a newer version": with_values(schema_version=99),
    "called an older version": with_values(schema_version=3),
    "called the first version": with_values(schema_version=1),
    "of no version": with_values(schema_version=0),
    "without version": with_values(schema_version=None),
    "a version in words": with_values(schema_version="four"),
    "a version that is true": with_values(schema_version=True),
}


def broken_by(kinds: Mapping[str, Callable[[Path], object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("break_it", list(kinds.values()), ids=list(kinds))


# --- records ----------------------------------------------------------------------------------------


@broken_by(JSON)
def test_a_broken_record_is_said_once_skipped_and_left_by_what_only_reads(break_it, store, said):
    path = store.record_path(CELL, "0123")
    break_it(path)
    before = everything(store)
    for _ in range(2):
        assert [found.cell for found in store.records()] == [OTHER]
        assert store.found({CELL: "0123", OTHER: "0123"}) == {CELL: None, OTHER: record(OTHER)}
    assert everything(store) == before
    lines = [line for line in said if path.name in line]
    assert lines and len(lines) == len(set(lines)) <= 2  # a folder is a stranger among records, and no record


@broken_by(JSON)
def test_a_run_sets_a_broken_record_aside_as_it_is_and_writes_it_anew(break_it, store, said):
    path = store.record_path(CELL, "0123")
    whole = store.record(CELL, "0123")
    break_it(path)
    before = everything(store)
    with store.exclusively():
        assert store.found({CELL: "0123", OTHER: "0123"}) == {CELL: None, OTHER: record(OTHER)}
        (line,) = said
        assert f"set aside as {path.name}.broken, and made again" in line and "\n" not in line
        after = everything(store)
        key = f"records/{path.name}"
        assert after.pop(f"{key}.broken") == before.pop(key) and after == before
        store.write(whole)
    fresh = Store(store.folder.parent, "tiny", said.append)
    assert fresh.record(CELL, "0123") == whole and len(fresh.records()) == 2 and len(said) == 1


def test_what_is_set_aside_never_replaces_what_was_before(store):
    path = store.record_path(CELL, "0123")
    whole = path.read_bytes()
    for number in range(3):
        path.write_bytes(b"broken %d" % number)
        with store.exclusively():
            assert store.record(CELL, "0123") is None
    names = [path.name + suffix for suffix in (".broken", ".broken-2", ".broken-3")]
    assert [path.with_name(name).read_bytes() for name in names] == [b"broken 0", b"broken 1", b"broken 2"]
    path.write_bytes(whole)
    assert store.record(CELL, "0123") is not None


@pytest.mark.parametrize("name", ["copy of it.json", "dolly--lora--seed0--4567.json", "dolly--floe--seed1--0123.json"])
def test_a_record_whose_name_does_not_fit_its_contents_is_broken(name, store, said):
    shutil.copy(store.record_path(CELL, "0123"), store.folder / "records" / name)
    assert sorted(found.cell.method for found in store.records()) == ["floe", "lora"]
    assert name in said[0] and "holds the record of dolly / floe / seed 0" in said[0]


def test_two_records_that_were_swapped_are_both_broken(store, said):
    one, other = (store.record_path(cell, "0123") for cell in (CELL, OTHER))
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    assert store.records() == [] and len(said) == 2


def test_strangers_among_records_are_ignored_with_one_line(store, said):
    folder = store.folder / "records"
    (folder / "dir.json").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").touch()
    assert len(store.records()) == len(store.records()) == 2
    assert said == [f"{folder}: ignored, as none of the records: dir.json, notes.txt"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_strangers_among_stages_are_ignored_with_one_line(store, said):
    folder = store.folder / "stages"
    (folder / "old").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden").touch()
    keys = {CELL: "0123", OTHER: "0123"}
    with store.exclusively():
        assert None not in store.found(keys).values() and len(store.records()) == 2
    assert said == [f"{folder}: ignored, as none of the stages: notes.txt, old"]
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "old").is_dir()


def test_a_record_that_may_not_be_read_is_broken(store, said, monkeypatch):
    """Injected, as root may read anything."""
    path = store.record_path(CELL, "0123")
    read = Path.read_bytes
    path.chmod(0)

    def refuse(self):
        if not stat.S_IMODE(self.stat().st_mode):
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [found.cell for found in store.records()] == [OTHER]
    assert "cannot be read (Permission denied)" in said[0]
    with store.exclusively():
        assert store.record(CELL, "0123") is None
    assert path.with_name(path.name + ".broken").exists() and not path.exists()


# --- stages -----------------------------------------------------------------------------------------

IDENTITIES = {"measure": MEASURE, "evaluation": EVALUATION, "training": TRAINING, "probe": PROBE}
CONTENTS = {"measure": "arrays.safetensors", "evaluation": "items.parquet"}


def expect_broken(store: Store, said: list[str], kind: str) -> None:
    """The stage and what rests on it do not count; a run sets the stage aside and everything else stays."""
    folder = store.stage_folder(kind, IDENTITIES[kind])
    before = everything(store)
    reading = Store(store.folder.parent, "tiny", said.append)
    assert reading.record(CELL, "0123") is None and reading.find(kind, IDENTITIES[kind]) is None
    assert not reading.rests_on_whole(record(CELL, stages={"planning": [folder.name]}))
    assert reading.record(OTHER, "0123") is not None
    assert everything(store) == before
    assert len(said) == 1 and str(folder) in said[0] and "counts as not run" in said[0]
    said.clear()
    running = Store(store.folder.parent, "tiny", said.append)
    with running.exclusively():
        assert running.record(CELL, "0123") is None and running.find(kind, IDENTITIES[kind]) is None
        assert not os.path.lexists(folder) and os.path.lexists(f"{folder}.broken")
    lines = [line for line in said if "is gone: what rests on it" not in line]
    assert len(lines) == 1 and f"set aside as {folder.name}.broken, and made again" in lines[0]
    moved = {
        name.replace(f"{folder.name}.broken", folder.name): content for name, content in everything(running).items()
    }
    assert moved == before


@broken_by(JSON)
def test_a_stage_with_a_broken_file_of_its_own_is_set_aside(break_it, store, said):
    break_it(store.stage_folder("probe", PROBE) / "stage.json")
    expect_broken(store, said, "probe")


@pytest.mark.parametrize("kind", list(CONTENTS))
@broken_by(FILES | {"gone": gone})
def test_a_stage_whose_arrays_or_items_are_broken_is_set_aside(break_it, kind, store, said):
    break_it(store.stage_folder(kind, IDENTITIES[kind]) / CONTENTS[kind])
    expect_broken(store, said, kind)


def test_a_flipped_bit_in_a_gradient_is_noticed_though_the_file_still_reads(store, said):
    path = store.stage_folder("measure", MEASURE) / "arrays.safetensors"
    flip(path)
    assert not np.array_equal(read_arrays(path)["G"], G)
    expect_broken(store, said, "measure")


def test_files_swapped_between_two_stages_are_noticed(store, said):
    other = {"scorer": "another"}
    path = store.stage_folder("measure", other) / "arrays.safetensors"
    store.keep("measure", other, write_arrays(path, {"G": G + 1}))
    mine = store.stage_folder("measure", MEASURE) / "arrays.safetensors"
    contents = mine.read_bytes()
    mine.write_bytes(path.read_bytes())
    path.write_bytes(contents)
    fresh = Store(store.folder.parent, "tiny", said.append)
    assert fresh.find("measure", MEASURE) is None and fresh.find("measure", other) is None and len(said) == 2


@pytest.mark.parametrize("part", ["", "stage.json"])
def test_a_stage_under_anothers_name_is_noticed(part, store, said):
    other = {"rank": 8}
    store.keep("probe", other, result={"nll": 9.0})
    one, two = (store.stage_folder("probe", identity) for identity in (PROBE, other))
    if part:
        shutil.copy(two / part, one / part)
    else:
        shutil.rmtree(one)
        shutil.copytree(two, one)
    expect_broken(store, said, "probe")


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["a file", "a dead link"])
def test_what_stands_in_the_place_of_a_stages_folder_is_set_aside(make, store, said):
    folder = store.stage_folder("probe", PROBE)
    shutil.rmtree(folder)
    make(folder)
    with store.exclusively():
        assert store.find("probe", PROBE) is None
        store.keep("probe", PROBE, result={"nll": 2.0})
        assert store.find("probe", PROBE) is not None
    assert os.path.lexists(f"{folder}.broken") and len(said) == 1


def test_a_stage_that_is_gone_is_said_and_made_again_by_a_run(store, said):
    folder = store.stage_folder("evaluation", EVALUATION)
    shutil.rmtree(folder)
    fresh = Store(store.folder.parent, "tiny", said.append)
    with fresh.exclusively():
        assert fresh.record(CELL, "0123") is None and fresh.record(CELL, "0123") is None
    assert said == [f"{folder} is gone: what rests on it counts as not run"]


def test_each_file_is_read_once_however_many_records_rest_on_it(store, monkeypatch):
    read: list[Path] = []
    digest = files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path: read.append(path) or digest(path))
    for _ in range(3):
        assert store.record(CELL, "0123") is not None
    assert sorted(path.name for path in read) == ["arrays.safetensors", "items.parquet"]


def test_a_stage_made_again_is_checked_again(store):
    assert store.find("measure", MEASURE) is not None
    path = store.stage_folder("measure", MEASURE) / "arrays.safetensors"
    store.keep("measure", MEASURE, write_arrays(path, {"G": G + 1}))
    assert store.find("measure", MEASURE) is not None
    store.keep("measure", MEASURE, {path.name: "0" * 64})
    assert store.find("measure", MEASURE) is None


# --- weights ----------------------------------------------------------------------------------------


def test_weights_that_a_copy_left_out_are_asked_for_only_by_whom_needs_them(store, said):
    assert store.find("training", TRAINING, weights=True) is not None
    shutil.rmtree(store.stage_folder("training", TRAINING) / "adapter")
    with store.exclusively():
        assert store.find("training", TRAINING, weights=True) is None
        assert store.find("training", TRAINING) is not None and store.record(CELL, "0123") is not None
    assert said == []


@broken_by(FILES | {"gone": gone})
def test_weights_that_are_broken_are_never_loaded(break_it, store, said):
    break_it(store.stage_folder("training", TRAINING) / "adapter" / "weights.safetensors")
    with store.exclusively():
        assert store.record(CELL, "0123") is not None, "no table reads weights"
        assert store.find("training", TRAINING, weights=True) is None
    assert len(said) == 1 and "its adapter/weights.safetensors" in said[0]


# --- files of before version 4 ----------------------------------------------------------------------


def as_of_version_3(store: Store) -> None:
    """Write records and stages as they were before digests."""
    for path in [*store.folder.glob("records/*.json"), *store.folder.glob("stages/*/stage.json")]:
        content = json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 3}
        path.write_text(json.dumps({key: content[key] for key in content if key not in ("digest", "files")}))


def test_files_of_before_digests_are_read_as_they_are(store, said):
    as_of_version_3(store)
    assert len(store.records()) == 2 and all(store.rests_on_whole(found) for found in store.records())
    stage = store.find("measure", MEASURE)
    assert isinstance(stage, Stage) and stage.files is None
    np.testing.assert_array_equal(store.arrays(stage)["G"], G)
    assert said == []


@pytest.mark.parametrize("kind", list(CONTENTS))
@pytest.mark.parametrize("break_it", [cut, FILES["emptied"], gone, replaced_by_a_folder])
def test_of_before_digests_what_cannot_be_read_is_noticed(break_it, kind, store, said):
    as_of_version_3(store)
    break_it(store.stage_folder(kind, IDENTITIES[kind]) / CONTENTS[kind])
    expect_broken(store, said, kind)


# --- writing what could not be read -----------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**70])
def test_a_record_that_could_not_be_read_is_not_written(value, store):
    before = everything(store)
    with pytest.raises(ValueError, match=r"not a finite number|beyond 64 bits"):
        store.write(record(CELL, plan={"details": {"x": [value]}}))
    assert everything(store) == before


def test_keys_that_json_turns_into_text_do_not_break_the_digest(store):
    store.write(record(CELL, plan={"details": {"x": {10: 1.0, 9: 2.0}}}))
    found = store.record(CELL, "0123")
    assert found is not None and found.plan.details == {"x": {"10": 1.0, "9": 2.0}}
