"""The matched rank against all ranks counted on a model without weights, and what a matched run is charged for."""

import pytest

from floe_bench.baselines._match import TOLERANCE, matched_rank
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import parse_method
from floe_bench.harness.run.cell import run_cell
from floe_bench.harness.run.dry_run import DryInputs, dry_plan, plan_cell
from floe_bench.harness.run.method_inputs import Inputs
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

MATCHED = ("lora", "hydralora", "random_layers", "topk_layers:score=last")
WIDE = {
    "model.config.hidden_size": 48, "model.config.intermediate_size": 72, "eval.evals": "validation_nll",
    "eval.primary": "validation_nll", "eval.nll_mixes": "dolly",
}  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    folder = tmp_path_factory.mktemp("results")
    return Session(profiles.load("tiny", WIDE), Store(folder, "tiny"))


def cell(method: str) -> Cell:
    return Cell(method=method, mix="dolly", seed=0)


class Wants(DryInputs):
    """Inputs to which any other method plans `target` parameters."""

    def __init__(self, session: Session, method: str, target: int):
        super().__init__(resolve_cell(session, cell(method)))
        self.target = target

    def planned_trainable(self, method: str) -> int:
        return self.target


def planned(session: Session, method: str, target: int):
    ref = parse_method(f"{method}:match=floe")
    return ref.plugin.load().plan(Wants(session, method, target), ref.options)


@pytest.fixture(scope="module", params=MATCHED)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def counts(session, method) -> dict[int, int]:
    """Trainable parameters at every rank that fits the model, each counted on the adapter itself."""
    config = planned(session, method, target=1).peft_config
    found = {}
    for r in range(1, 49):
        config.r = r
        found[r] = DryInputs(resolve_cell(session, cell(method))).trainable(config)
    return found


@pytest.mark.parametrize("at", [0.3, 1.0, 1.4, 5.01, 7.5, 20.0, 33.3, 47.6])
def test_the_rank_is_the_nearest_of_all(at, session, method, counts):
    """`at`: how many times the parameters of rank 1 are wanted, between and beyond those of whole ranks."""
    target = round(at * (counts[2] - counts[1]) + 2 * counts[1] - counts[2])
    if target < 1:
        target = 1
    plan = planned(session, method, target)
    nearest = min(abs(count - target) for count in counts.values())
    assert abs(counts[plan.peft_config.r] - target) == nearest
    recorded = plan.matched
    assert recorded.target == target and recorded.ratio == pytest.approx(counts[plan.peft_config.r] / target)
    assert recorded.within_tolerance == (nearest <= TOLERANCE * target)


def test_there_are_targets_that_some_rank_comes_near_and_others_that_none_does(session, method, counts):
    near = planned(session, method, round(1.01 * counts[12]))
    assert near.peft_config.r == 12 and near.matched.within_tolerance
    between = planned(session, method, round(0.6 * counts[1] + 0.4 * counts[2]))
    assert between.peft_config.r == 1 and not between.matched.within_tolerance
    beyond = planned(session, method, counts[1] // 2)
    assert beyond.peft_config.r == 1 and beyond.matched.ratio == pytest.approx(2, rel=0.01)


def test_lora_alpha_stays_as_set(session, method, counts):
    assert {planned(session, method, counts[r]).peft_config.lora_alpha for r in (1, 9, 30)} == {32}


def test_the_largest_rank_that_fits_can_be_matched(session, method, counts):
    assert planned(session, method, counts[48]).peft_config.r == 48


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
def test_a_method_that_trains_nothing_cannot_be_matched(other, session):
    with pytest.raises(UsageError, match=f"'{other}' trains nothing"):
        dry_plan(resolve_cell(session, cell(f"lora:match={other}")))


# --- whole runs -------------------------------------------------------------------------------------


def test_a_plan_spans_the_ranks_of_a_search_that_was_not_made(session, method):
    floe = plan_cell(resolve_cell(session, cell("floe"))).trainable_parameters
    spanned = plan_cell(resolve_cell(session, cell(f"{method}:match=floe")))
    for target, count in zip((min(floe), max(floe)), spanned.trainable_parameters, strict=True):
        config = planned(session, method, target).peft_config
        assert count == DryInputs(resolve_cell(session, cell(method))).trainable(config)
    assert "probe" not in spanned.stages_asked


@pytest.mark.slow
def test_a_run_matches_what_floe_trains_and_is_not_charged_for_its_search(tmp_path):
    """Also where the matched method has not been run: its search is made, kept, and charged to it alone."""
    session = Session(profiles.load("tiny", WIDE), Store(tmp_path, "tiny"))
    matched = cell("hydralora:match=floe")
    record = run_cell(resolve_cell(session, matched))
    assert record.status == "ok", record.error
    assert record.stages.planning == () and record.plan.cost_by_kind == {}
    assert (record.planning_cost.seconds, record.planning_cost.tokens) == (0, 0)
    floe = run_cell(resolve_cell(session, cell("floe")))
    assert floe.planning_cost.tokens > 0
    assert record.plan.matched and record.plan.matched.target == floe.plan.trainable_parameters
    inputs = Inputs(resolve_cell(session, matched))
    assert inputs.planned_trainable("floe") == floe.plan.trainable_parameters
    assert inputs.account.stages == {}
    planned = plan_cell(resolve_cell(session, matched))
    assert set(planned.trainable_parameters) == {record.plan.trainable_parameters}
    assert planned.status == "done" and planned.stages_done == planned.stages_asked == {"training": 1}
