"""Records of the first schema version are read as what they meant."""

import json
import math
from pathlib import Path

import pytest

from floe_bench.harness.contracts.record import SCHEMA_VERSION, Record
from floe_bench.harness.floe.selection import budget_share
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.sealed import read_sealed
from floe_bench.harness.store.upgrade import upgraded

ROOT = Path(__file__).parents[3]
COMMITTED = sorted((ROOT / "results" / "reference").glob("*/records/*.json"))


def first_version() -> list[Path]:
    return [path for path in COMMITTED if json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 1]


def test_committed_records_of_the_first_version_keep_their_budget():
    """Then c was K/L where none was given; a record says what its plan spent at most."""
    seen = 0
    for path in first_version():
        record = read_sealed(Record, path)
        assert record.schema_version == SCHEMA_VERSION
        plan, selection = record.plan, record.settings.selection
        if plan.selected:
            taylor = plan.scores["taylor"]
            share = budget_share(
                selection.layer_fraction, selection.taylor_budget, selection.taylor_budget_factor, len(taylor)
            )
            assert share * sum(taylor) == pytest.approx(plan.selected.taylor_budget, rel=1e-9)
            seen += 1
    assert seen > 20


def test_a_budget_factor_that_is_there_stays():
    content = {"schema_version": 1, "settings": {"selection": {"taylor_budget_factor": 3.0}}}
    assert upgraded(content, 2) == content | {"schema_version": 2}


def test_a_stage_gains_its_version_only():
    assert upgraded({"schema_version": 1, "kind": "probe"}, 2) == {"schema_version": 2, "kind": "probe"}


def test_a_stage_of_before_manifests_has_none():
    assert upgraded({"schema_version": 3, "kind": "probe"}, 4) == {"schema_version": 4, "kind": "probe", "files": None}


@pytest.mark.parametrize("folder", sorted((ROOT / "results" / "reference").iterdir()), ids=lambda folder: folder.name)
def test_every_committed_record_and_stage_is_whole(folder, capsys):
    if not folder.is_dir():
        return
    store = Store(folder.parent, folder.name)
    records = store.records()
    assert len(records) == len(list((folder / "records").iterdir()))
    assert all(store.rests_on_whole(record) for record in records)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_no_step_leads_from_an_unknown_version(version):
    assert upgraded({"schema_version": version}, 2) is None


def second_version() -> list[Path]:
    return [path for path in COMMITTED if json.loads(path.read_text(encoding="utf-8"))["schema_version"] <= 2]


@pytest.mark.parametrize("path", second_version(), ids=lambda path: "/".join(path.parts[-3::2]))
def test_a_committed_record_of_untyped_plans_keeps_every_fact(path):
    """Each leaf of the plan as it was written is found in the typed one, under its old or its new name."""
    old, record = json.loads(path.read_text(encoding="utf-8")), read_sealed(Record, path)
    plan, details = old["plan"], dict(old["plan"].get("details", {}))
    now = record.plan.model_dump(mode="json")
    for name in ("layers", "r", "trainable_parameters", "base_parameters", "learning_rate_ratio", "cost_by_kind"):
        assert now[name] == plan[name]
    assert now["n_layers"] == old["settings"]["model"]["config"]["num_hidden_layers"]
    assert now["k"] is None or len(now["layers"]) <= now["k"]
    flat = now["scores"] | now["details"] | (now["selected"] or {}) | (now["searched"] or {})
    flat |= {"fisher_diagonal": flat.get("fisher"), "match": now["matched"]}
    for name, value in details.items():
        if name == "trials":
            value = [{"share": 1.0} | trial for trial in value]
        assert flat[name] == value
    used = [name for names in old["stages"].values() for name in ([names] if isinstance(names, str) else names)]
    assert sorted(record.stages.all) == sorted(used)


@pytest.mark.parametrize("path", second_version(), ids=lambda path: "/".join(path.parts[-3::2]))
def test_a_method_that_chose_no_layers_has_no_k(path):
    """A quarter of the layers, rounded up, for those that chose."""
    record = read_sealed(Record, path)
    chose = record.cell.method.partition(":")[0] not in ("base", "full", "lora", "hydralora")
    assert record.plan.k == (
        math.ceil(record.plan.n_layers * record.settings.selection.layer_fraction) if chose else None
    )
