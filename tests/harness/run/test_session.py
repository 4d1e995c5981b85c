"""Cells that vary settings: session, keys and records, against profiles loaded with those settings."""

import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.errors import UsageError
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

CHEAP = {"eval.evals": "validation_nll", "eval.primary": "validation_nll", "eval.nll_mixes": "dolly"}


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(profiles.load("tiny", CHEAP), Store(tmp_path, "tiny"))


def cell(**varied: str | int | float) -> Cell:
    """`cell(adapter__r=3)`: a cell that varies adapter.r."""
    settings = tuple((key.replace("__", "."), value) for key, value in varied.items())
    return Cell(method="hydralora", mix="dolly", seed=0, varied=settings)


def key(session: Session, cell: Cell) -> str:
    return resolve_cell(session, cell).key


# --- the session of a cell ------------------------------------------------------------------------


def test_a_plain_cell_has_the_profiles_own_session(session):
    assert session.of(cell()) is session


def test_a_varied_cell_has_the_settings_of_a_profile_loaded_with_them(session):
    varied = session.of(cell(selection__layer_fraction=0.75, adapter__num_experts=2))
    wanted = {"selection.layer_fraction": 0.75, "adapter.num_experts": 2}
    assert varied.settings == profiles.load("tiny", CHEAP | wanted)
    assert session.settings == profiles.load("tiny", CHEAP)
    assert session.of(cell(selection__layer_fraction=0.75, adapter__num_experts=2)) is varied


@pytest.mark.parametrize(
    ("varied", "hint"),
    [
        ({"selection__layer_fractoin": 0.5}, "selection.layer_fraction"),
        ({"selection__layer_fraction": 1.5}, "selection.layer_fraction = 1.5"),
        ({"search__r_min": 9}, "r_min 9 is above r_max"),
    ],
)
def test_settings_that_cannot_be_are_refused(varied, hint, session):
    with pytest.raises(UsageError, match=hint):
        session.of(cell(**varied))


def test_cells_hold_one_base_model_between_them(session):
    assert session.of(cell(adapter__r=3)).base is session.base


def test_another_model_takes_the_place_of_the_base_model(session):
    deep = session.of(cell(model__config__num_hidden_layers=6))
    assert (session.n_layers, deep.n_layers) == (4, 6)
    assert len(session.base.model.layers) == 4
    assert len(deep.base.model.layers) == 6
    assert len(session._base_models) == 1
    assert len(session.base.model.layers) == 4


def test_rows_are_read_once_where_the_split_is_the_same(session):
    read = session.mix("dolly")
    assert session.of(cell(data__pilot_fraction=1.0)).mix("dolly") is read
    fewer = session.of(cell(data__train_rows=4))
    assert len(fewer.mix("dolly").train) == 4
    assert session.mix("dolly") is read and len(read.train) == 16


# --- keys -------------------------------------------------------------------------------------------


def test_cells_that_differ_in_a_setting_share_no_key_and_no_record(session):
    cells = [cell(), cell(adapter__r=3), cell(adapter__r=4), cell(train__epochs=2.0), cell(adapter__num_experts=3)]
    keys = [key(session, each) for each in cells]
    assert len(set(keys)) == len(cells)
    assert len({session.store.record_path(each, k) for each, k in zip(cells, keys, strict=True)}) == len(cells)
    assert len({each.label for each in cells}) == len(cells)


def test_a_setting_varied_to_the_profiles_own_value_is_another_cell_and_the_same_work(session):
    """Its key is another, as its name is; what it trains is found by the content."""
    same = cell(adapter__r=session.settings.adapter.r)
    assert key(session, same) != key(session, cell())
    assert session.of(same).settings == session.settings


def test_a_key_does_not_depend_on_what_else_is_in_the_grid(session, tmp_path):
    session.of(cell(adapter__r=5))
    alone = Session(profiles.load("tiny", CHEAP), Store(tmp_path, "tiny"))
    assert key(session, cell(adapter__r=3)) == key(alone, cell(adapter__r=3))


def test_the_key_knows_the_other_mixes_and_methods_of_the_plan(session):
    plain = resolve_cell(session, Cell(method="floe_layers", mix="dolly", seed=0)).identity
    assert plain["data"].keys() == {"dolly"} and plain["other_methods"] == {}
    on_code = resolve_cell(session, Cell(method="floe_layers:on=code", mix="dolly", seed=0)).identity
    assert on_code["data"] == {"dolly": session.mix("dolly").digest, "code": session.mix("code").digest}
    matched = resolve_cell(session, Cell(method="lora:match=floe", mix="dolly", seed=0)).identity
    assert "floe_bench.baselines.floe" in matched["other_methods"]["floe"]
    assert "floe_bench.harness.floe.rank_search" in matched["other_methods"]["floe"]
