"""FLoE's rank search on made-up probes: literal by default, on shares of the rows where asked for."""

import pytest

from floe_bench.harness.errors import UsageError
from floe_bench.harness.floe.rank_search import halving_search, search
from floe_bench.harness.registry import find, parse_method

SEARCH = {"search__r_min": 2, "search__r_max": 16, "search__trials": 30}


@pytest.fixture
def planned(made_inputs):
    """planned(name): the plan of the method, and the (rank, share) of the probes that it asked for."""

    def plan(name: str):
        inputs = made_inputs(seed=1, **SEARCH)
        asked = []

        def probe(config, share=1.0):
            asked.append((config.r, share))
            return nll(config.r, share)

        inputs.probe = probe
        method = parse_method(name)
        return method.plugin.load().plan(inputs, method.options), asked

    return plan


def nll(r: int, share: float) -> float:
    """Planted: at a share of the rows the smallest rank looks best, on all of them 11 is."""
    return abs(r - 11) / 100 + 2.0 if share == 1 else 1.0 + r / 100


def test_by_default_every_rank_is_judged_on_all_rows(planned):
    plan, asked = planned("floe")
    literal = search(lambda r: nll(r, 1.0), 2, 16, 30, 1)
    assert [vars(trial) for trial in plan.searched.trials] == [vars(trial) for trial in literal.trials]
    assert plan.searched.unique_trainings == len(set(asked)) == len(literal.ranks)
    assert {share for _, share in asked} == {1.0}
    assert plan.peft_config.r == literal.r == 11


def test_on_shares_the_best_rank_is_the_best_of_those_judged_on_all_rows(planned):
    plan, asked = planned("floe:shares=0.25+1")
    wanted = halving_search(nll, 2, 16, 30, 1, (0.25, 1.0))
    assert [vars(trial) for trial in plan.searched.trials] == [vars(trial) for trial in wanted.trials]
    assert plan.searched.unique_trainings == len(set(asked)) == wanted.unique_trainings
    full = {r: nll(r, share) for r, share in asked if share == 1}
    assert plan.peft_config.r == min(full, key=full.__getitem__) == wanted.r
    assert len(full) < len({r for r, _ in asked})
    assert plan.rank_range == (2, 16)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("floe:shares=1", "floe"),
        ("floe:shares=1.0", "floe"),
        ("floe:shares=0.25+1", "floe:shares=0.25+1.0"),
        ("floe:shares=0.25+0.5+1.0", "floe:shares=0.25+0.5+1.0"),
    ],
)
def test_one_search_has_one_name(text, name):
    assert parse_method(text).name == name == parse_method(name).name


@pytest.mark.parametrize("shares", ["0.5", "0.5+0.25+1", "0+1", "0.5+0.5+1", "0.5+1.5", "half+1"])
def test_shares_that_do_not_ascend_to_the_whole_are_refused(shares):
    with pytest.raises(UsageError, match="option shares"):
        parse_method(f"floe:shares={shares}")


def test_the_option_is_listed():
    assert find("method", "floe").options == {"shares": "tuple[float, ...] = (1.0,)"}


def test_the_planted_curve_misleads_at_a_share():
    assert min(range(2, 17), key=lambda r: nll(r, 0.25)) == 2
    assert min(range(2, 17), key=lambda r: nll(r, 1.0)) == 11
