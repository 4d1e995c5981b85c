"""The matched rank against all ranks counted on a model without weights, and what a matched run is charged for."""

import pytest

from floe_bench.baselines._match import TOLERANCE, matched_rank
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import parse_method
from floe_bench.harness.run.cell import run_cell
from floe_bench.harness.run.dry_run import DryInputs, dry_plan, plan_cell
from floe_bench.harness.run.identity import identity_of
from floe_bench.harness.run.method_inputs import Inputs
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

MATCHED = ("lora", "hydralora", "random_layers", "topk_layers:score=last")
WIDE = {
    "model.config.hidden_size": 48, "model.config.intermediate_size": 72, "eval.evals": "validation_nll",
    "eval.primary": "validation_nll", "eval.nll_mixes": "dolly",
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Session:
    folder = tmp_path_factory.mktemp("results")
    return Session(profiles.load("tiny", WIDE), Store(folder, "tiny"), progress=lambda text: None)


def cell(method: str) -> Cell:
    return Cell(method=method, mix="dolly", seed=0)


class Wants(DryInputs):
    """Inputs to which any other method plans `target` parameters."""

    def __init__(self, bench: Session, method: str, target: int):
        super().__init__(bench, cell(method))
        self.target = target

    def planned_trainable(self, method: str) -> int:
        return self.target


def planned(bench: Session, method: str, target: int):
    ref = parse_method(f"{method}:match=floe")
    return ref.plugin.load().plan(Wants(bench, method, target), ref.options)


@pytest.fixture(scope="module", params=MATCHED)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def counts(bench, method) -> dict[int, int]:
    """Trainable parameters at every rank that fits the model, each counted on the adapter itself."""
    config = planned(bench, method, target=1).peft_config
    found = {}
    for r in range(1, 49):
        config.r = r
        found[r] = DryInputs(bench, cell(method)).trainable(config)
    return found


@pytest.mark.parametrize("at", [0.3, 1.0, 1.4, 5.01, 7.5, 20.0, 33.3, 47.6])
def test_the_rank_is_the_nearest_of_all(at, bench, method, counts):
    """`at`: how many times the parameters of rank 1 are wanted, between and beyond those of whole ranks."""
    target = round(at * (counts[2] - counts[1]) + 2 * counts[1] - counts[2])
    if target < 1:
        target = 1
    plan = planned(bench, method, target)
    nearest = min(abs(count - target) for count in counts.values())
    assert abs(counts[plan.peft_config.r] - target) == nearest
    recorded = plan.matched
    assert recorded.target == target and recorded.ratio == pytest.approx(counts[plan.peft_config.r] / target)
    assert recorded.within_tolerance == (nearest <= TOLERANCE * target)


def test_there_are_targets_that_some_rank_comes_near_and_others_that_none_does(bench, method, counts):
    near = planned(bench, method, round(1.01 * counts[12]))
    assert near.peft_config.r == 12 and near.matched.within_tolerance
    between = planned(bench, method, round(0.6 * counts[1] + 0.4 * counts[2]))
    assert between.peft_config.r == 1 and not between.matched.within_tolerance
    beyond = planned(bench, method, counts[1] // 2)
    assert beyond.peft_config.r == 1 and beyond.matched.ratio == pytest.approx(2, rel=0.01)


def test_lora_alpha_stays_as_set(bench, method, counts):
    assert {planned(bench, method, counts[r]).peft_config.lora_alpha for r in (1, 9, 30)} == {32}


def test_the_largest_rank_that_fits_can_be_matched(bench, method, counts):
    assert planned(bench, method, counts[48]).peft_config.r == 48


def test_nothing_is_asked_for_where_nothing_is_to_be_matched():
    def never(r: int):
        raise AssertionError

    assert matched_rank(None, None, never) == (None, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora:match=lora", "depends on 'lora', on itself"),
        ("lora:match=flo", "unknown method 'flo': did you mean floe"),
        ("lora:match=floe:r=4", "r and match both set the rank"),
        ("hydralora:r=4:match=floe", "r and match both set the rank"),
        ("lora:match=", "at least 1 character"),
    ],
)
def test_a_match_that_means_nothing_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        parse_method(name)


@pytest.mark.parametrize("other", ["base", "layer_scores"])
def test_a_method_that_trains_nothing_cannot_be_matched(other, bench):
    with pytest.raises(UsageError, match=f"'{other}' trains nothing"):
        dry_plan(bench, cell(f"lora:match={other}"))


# --- whole runs -------------------------------------------------------------------------------------


def test_a_plan_spans_the_ranks_of_a_search_that_was_not_made(bench, method):
    floe = plan_cell(bench, cell("floe")).trainable_parameters
    spanned = plan_cell(bench, cell(f"{method}:match=floe"))
    for target, count in zip((min(floe), max(floe)), spanned.trainable_parameters, strict=True):
        assert count == DryInputs(bench, cell(method)).trainable(planned(bench, method, target).peft_config)
    assert "probe" not in spanned.stages_asked


@pytest.mark.slow
def test_a_run_matches_what_floe_trains_and_is_not_charged_for_its_search(tmp_path):
    """Also where the matched method has not been run: its search is made, kept, and charged to it alone."""
    bench = Session(profiles.load("tiny", WIDE), Store(tmp_path, "tiny"), progress=lambda text: None)
    matched = cell("hydralora:match=floe")
    record = run_cell(bench, matched, identity_of(bench, matched))
    assert record.status == "ok", record.error
    assert record.stages.planning == () and record.plan.cost_by_kind == {}
    assert (record.planning_cost.seconds, record.planning_cost.tokens) == (0, 0)
    floe = run_cell(bench, cell("floe"), identity_of(bench, cell("floe")))
    assert floe.planning_cost.tokens > 0
    assert record.plan.matched and record.plan.matched.target == floe.plan.trainable_parameters
    inputs = Inputs(bench, matched, {})
    assert inputs.planned_trainable("floe") == floe.plan.trainable_parameters
    assert inputs.account.stages == {}
    planned = plan_cell(bench, matched)
    assert set(planned.trainable_parameters) == {record.plan.trainable_parameters}
    assert planned.status == "done" and planned.stages_done == planned.stages_asked == {"training": 1}
