"""Each rule's verdicts on evidence planted for them."""

import pytest

from .planted import reach

NONE = dict.fromkeys(("nll_difference", "nll_low", "nll_high", "nll_p"))


def test_search_without_exhaustion():
    def verdict(p: float | None = 0.001, **changes) -> str:
        return reach(
            "search_without_exhaustion", rank_search=[changes], rank_search_flatness=[{"friedman_p": p}]
        ).verdict

    assert verdict() == "reproduced"
    assert verdict(unique_mean=12.0) == "not reproduced"  # 80 % of the grid
    assert verdict(found=0.7, found_low=0.6, found_high=0.8) == "not reproduced"
    assert verdict(found=0.9, found_low=0.85, found_high=0.95) == "underpowered"
    assert verdict(p=0.2) == "underpowered"
    assert verdict(p=None) == "underpowered"  # one seed: nothing known of the noise


def test_stable_rankings():
    def verdict(*deep: str, **changes) -> str:
        depths = [{"verdict": text} for text in deep] + [{"spread_over": "resampled", "verdict": "no difference seen"}]
        found = reach("stable_rankings", ranking_stability=[changes], ranking_stability_depth=depths)
        return found.verdict

    less, more, same = "deep layers less stable", "deep layers more stable", "no difference seen"
    assert verdict(less) == verdict(less, less) == "reproduced"
    assert verdict(less, spearman=0.6) == "not reproduced"
    assert verdict(less, more) == "not reproduced"
    assert verdict(less, same) == verdict(same) == verdict() == "underpowered"
    assert verdict(less, spearman_least=0.5) == "underpowered"  # stable in the mean only
    assert verdict(less, differs="seed") == "not run"
    assert verdict(less, spearman=None) == "not run"  # scores that do not differ have no ranking


def test_linear_memory():
    def verdict(*lines: dict) -> str:
        trainable = {"quantity": "trainable_parameters", "quadratic_p": 0.0001}
        return reach("linear_memory", layer_fraction_memory=[*lines, trainable]).verdict

    assert verdict({}) == verdict({}, {"mix": "code", "quadratic_p": None}) == "reproduced"
    assert verdict({}, {"quadratic_p": 0.01}) == "not reproduced"
    assert verdict({"quadratic_p": 0.04}) == "not reproduced"
    assert verdict({"quadratic_p": 0.04}, {}) == "reproduced"  # of two mixes: 0.08 after Holm
    assert verdict({"slope": -5e6, "low": -6e6, "high": -4e6}) == "not reproduced"
    assert verdict({"r_squared": 0.6}) == verdict({"low": -1e6}) == "underpowered"
    flat = {"slope": 0.0, "low": 0.0, "high": 0.0, "r_squared": None, "quadratic_p": 1.0}
    assert verdict(flat) == "not reproduced"
    assert verdict() == "underpowered"


def test_latency_rises_with_experts():
    def verdict(*latencies: float | None) -> str:
        rows = [{"num_experts": 2**i, "ms_per_token": ms} for i, ms in enumerate(latencies)]
        return reach("latency_rises_with_experts", experts_latency=[{"num_experts": 0}, *rows]).verdict

    assert verdict(3.0, 3.1, 3.3, 3.71) == "reproduced"
    assert verdict(3.7, 3.6, 3.4, 3.01) == verdict(3.0, 3.0, 3.0, 3.0) == "not reproduced"
    assert verdict(3.0, 3.5, 2.9, 3.4) == "underpowered"
    assert verdict(3.0, 3.1) == verdict(3.0, None, 3.2) == "underpowered"


def test_latency_is_shown_beside_the_base_models():
    rows = [{"num_experts": m, "ms_per_token": 2.0 + 0.5 * m} for m in (0, 1, 2, 4)]
    ours = reach("latency_rises_with_experts", experts_latency=rows).ours
    assert ours.startswith("+0.5000 ms a token and expert [+0.5000, +0.5000]") and "M = 4: 2.00 ×" in ours


def test_linear_scoring():
    def verdict(**changes) -> str:
        other = {"scorer": "taylor", "low": 1.9, "high": 2.1}
        return reach("linear_scoring", scoring_cost_trend=[other, changes]).verdict

    assert verdict() == "reproduced"
    assert verdict(exponent=2.0, low=1.9, high=2.1) == "not reproduced"
    assert verdict(low=0.5, high=1.6) == "underpowered"
    assert verdict(scorer="gradient_norm") == "underpowered"


def test_diagonal_is_enough():
    def verdict(*trained: dict, jaccard: float = 0.9) -> str:
        picks = [{"jaccard_diagonal": jaccard}, {"criterion": "parameter diagonal", "jaccard_diagonal": 0.0}]
        rows = [*trained, {"criterion": "true Fisher", "nll_p": 0.001}]
        return reach("diagonal_is_enough", fisher_blocks=picks, fisher_blocks_training=rows).verdict

    same = {"criterion": "blocks of 2", "is": "same training", **NONE}
    assert verdict({}) == verdict({}, same) == verdict(same) == "reproduced"
    assert verdict({"accuracy_low": None, "accuracy_high": None, "accuracy_p": None}) == "reproduced"
    assert verdict({}, jaccard=0.5) == "not reproduced"
    assert verdict({"nll_p": 0.01}) == verdict({}, {"accuracy_p": 0.01}) == "not reproduced"
    assert verdict({"nll_high": 0.02}) == verdict({"accuracy_low": -0.05}) == "underpowered"
    assert verdict(NONE) == verdict({}, NONE) == "underpowered"  # the diagonal's own picks were not trained
    assert verdict() == "not run"


def test_transferred_layers():
    def verdict(*rows: dict) -> str:
        own = {"layers_from": "code", "is": "reference", **NONE}
        special = {"layers_from": "medical", "nll_p": 0.001, "nll_difference": 1.0}
        general = {"mix": "dolly", "layers_from": "flanv2", "nll_p": 0.001, "nll_difference": 1.0}
        return reach("transferred_layers", cross_domain=[own, special, general, *rows]).verdict

    same = {"is": "same training", **NONE}
    assert verdict({}) == verdict({}, same) == verdict(same) == "reproduced"
    better = {"nll_difference": -0.5, "nll_low": -0.6, "nll_high": -0.4, "nll_p": 0.001}
    assert verdict(better) == "reproduced"  # layers that suit better than own picks transfer
    assert verdict({}, {"nll_difference": 0.1, "nll_p": 0.01}) == "not reproduced"
    assert verdict({}, {"nll_high": 0.05}) == "underpowered"
    assert verdict(NONE) == verdict({}, NONE) == "underpowered"  # own picks were not trained
    assert verdict() == "not run"


def test_cliff():
    def verdict(*steps: dict) -> str:
        return reach("cliff", layer_fraction_steps=list(steps)).verdict

    small = {"nll_difference": 0.1, "nll_low": 0.08, "nll_high": 0.12}
    assert verdict({}) == verdict(small, {}) == "reproduced"  # 0.3 [0.25, 0.35] of a range of 0.4
    assert verdict(small, small) == "not reproduced"
    assert verdict({"nll_low": 0.1}) == "underpowered"  # a point beyond half the range, an interval on both sides
    assert verdict(small, {"nll_low": -0.1, "nll_p": 0.3}) == "underpowered"  # one cliff could hide in the noise
    assert verdict({"nll_p": 0.3}) == verdict({"nll_difference": -0.3}) == "underpowered"
    assert verdict({"is": "same training", "nll_range": 0.0, **NONE}) == "underpowered"


@pytest.mark.parametrize(("step", "text"), [({}, "dolly, K 4 → 2: +0.3000 [+0.2500, +0.3500] nats, 75% of the range")])
def test_the_cliff_is_named(step, text):
    assert reach("cliff", layer_fraction_steps=[step]).ours == text
