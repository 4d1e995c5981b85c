"""At FLoE's number of parameters: cells, how near each match is, and the paired comparison with FLoE."""

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import parameter_matched

RISE = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2])


def cell(method: str, mix: str = "dolly", seed: int = 0) -> Cell:
    return Cell(method=method, mix=mix, seed=seed)


def matched(ratio: float) -> dict:
    return {"matched": {"method": "floe", "target": 100, "ratio": ratio, "within_tolerance": abs(ratio - 1) <= 0.02}}


def test_cells_are_floe_and_each_other_method_matched_under_canonical_names(made):
    results = made(parameter_matched, mixes=["dolly", "code"], seeds=2)
    methods = [
        "floe", "lora:match=floe", "hydralora:match=floe", "random_layers:match=floe", "topk_layers:match=floe",
    ]  # fmt: skip
    assert results.cells == [cell(m, mix, seed) for seed in (0, 1) for mix in ("dolly", "code") for m in methods]
    assert all(registry.parse_method(method).name == method for method in methods)


def test_the_table_shows_how_near_each_match_is(made):
    results = made(parameter_matched, mixes="dolly")
    results.add(cell("floe"), [0, 1], nll=np.full(8, 2.0))
    results.add(cell("lora:match=floe"), [0, 1, 2, 3], nll=2.0 + RISE, **matched(1.01))
    results.add(cell("hydralora:match=floe"), [0, 1, 2, 3], nll=2.0 - RISE, **matched(1.4))
    near, _ = parameter_matched.tables(results)
    rows = near.frame.set_index("method")
    assert rows["ratio"].tolist() == [1.0, 1.01, 1.4] and rows["within_tolerance"].tolist() == [True, True, False]
    assert rows["trainable_parameters"].tolist() == [200, 400, 400] and rows["layers"].tolist() == [2, 4, 4]
    assert rows["nll"].tolist() == pytest.approx([2.0, 2.15, 1.85])
    assert near.view["Within 2 %"].tolist() == ["yes", "yes", "no"]
    assert near.view["% of FLoE's"].tolist() == ["100.0", "101.0", "140.0"]


def test_every_other_method_is_paired_with_floe_and_holm_is_over_the_table(made):
    results = made(parameter_matched, mixes="dolly")
    right = [True] * 4 + [False] * 4
    results.add(cell("floe"), [0, 1], nll=np.full(8, 2.0), right=right)
    results.add(cell("lora:match=floe"), [0, 1, 2, 3], nll=2.0 + RISE, right=right, **matched(1.0))
    results.add(cell("hydralora:match=floe"), [0, 1, 2, 3], nll=2.0 + RISE * np.tile([1, -1], 4), right=right,
                **matched(1.0))  # fmt: skip
    _, compared = parameter_matched.tables(results)
    frame = compared.frame.set_index("method")
    assert frame["reference"].tolist() == ["floe", "floe"] and frame["seeds"].tolist() == [1, 1]
    lora, hydralora = frame.to_dict("records")
    assert lora["nll_difference"] == pytest.approx(0.15) and hydralora["nll_difference"] == pytest.approx(-0.05)
    assert lora["accuracy_difference"] == 0
    assert lora["nll_p"] == pytest.approx(4 * 2 / 2**8)  # all eight rows rise; two tests of NLL and two of accuracy
    assert (lora["trainable_a"], lora["trainable_b"]) == (400, 200)
    assert compared.view["NLL is"].tolist() == ["higher (worse)", "tie"]
    assert compared.view["Accuracy is"].tolist() == ["tie", "tie"]


def test_seeds_are_paired_with_the_same_seed_and_parameters_are_means(made):
    """FLoE's rank, and so its size, is searched anew each seed."""
    results = made(parameter_matched, mixes="dolly", seeds=3)
    for seed in range(3):
        results.add(cell("floe", seed=seed), list(range(seed + 1)), nll=np.full(8, 2.0 + seed))
    for seed in range(2):
        results.add(cell("lora:match=floe", seed=seed), [0, 1, 2, 3], nll=2.0 + seed + RISE, **matched(1.0))
    ((row),) = parameter_matched.tables(results)[1].frame.to_dict("records")
    assert row["seeds"] == 2 and row["nll_difference"] == pytest.approx(0.15)
    assert (row["trainable_a"], row["trainable_b"]) == (400, 150)


def test_a_method_is_not_compared_with_floe_on_another_mix(made):
    results = made(parameter_matched, mixes=["dolly", "code"])
    results.add(cell("floe"), [0])
    results.add(cell("lora:match=floe", mix="code"), [0, 1], **matched(1.0))
    _, compared = parameter_matched.tables(results)
    assert compared.frame.empty and compared.notes == ["No two finished methods to compare, one of them floe."]


def test_nothing_finished_gives_empty_tables(made):
    assert [table.frame.empty for table in parameter_matched.tables(made(parameter_matched))] == [True, True]


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path):
    """LoRA comes within 2 % of FLoE or to the nearest rank; the record's count is the plan's own."""
    results, (near, compared) = ran_experiment(
        parameter_matched, tmp_path, mixes="dolly", search__trials=1, eval__evals="validation_nll",
        eval__primary="validation_nll", eval__nll_mixes="dolly",
    )  # fmt: skip
    rows = near.frame.set_index("method")
    assert len(rows) == len(results.cells) == 5 and len(compared.frame) == 4
    target = rows.loc["floe", "trainable_parameters"]
    for record in results.records:
        assert record.training is not None
        assert record.training.trainable_parameters == rows.loc[record.cell.method, "trainable_parameters"]
    assert rows["ratio"].tolist() == pytest.approx((rows["trainable_parameters"] / target).tolist())
    assert rows["within_tolerance"].tolist() == [abs(ratio - 1) <= 0.02 for ratio in rows["ratio"]]
    assert compared.frame["accuracy_p"].isna().all() and compared.frame["nll_p"].notna().all()
