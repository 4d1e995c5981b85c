"""Each rule's verdicts on evidence planted for them."""

from itertools import pairwise

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
        pairs = [{"seed_a": seed} | changes for seed in range(3)] + [{"differs": "seed", "spearman": 0.0}]
        return reach("stable_rankings", ranking_stability_pairs=pairs, ranking_stability_depth=depths).verdict

    less, more, same = "deep layers less stable", "deep layers more stable", "no difference seen"
    assert verdict(less) == verdict(less, less) == "reproduced"
    assert verdict(less, spearman=0.6) == "not reproduced"
    assert verdict(less, more) == "not reproduced"
    assert verdict(less, same) == verdict(same) == verdict() == "underpowered"
    assert verdict(less, differs="mix") == "underpowered"
    assert verdict(less, spearman=None) == "underpowered"  # scores that do not differ have no ranking
    assert verdict(less, seed_a=0) == "underpowered"  # one mix and seed: no interval


def test_rankings_that_are_stable_on_some_seeds_only_are_underpowered():
    def found(*values: float):
        pairs = [{"seed_a": seed, "spearman": value} for seed, value in enumerate(values)]
        return reach("stable_rankings", ranking_stability_pairs=pairs, ranking_stability_depth=[{}])

    assert found(1.0, 1.0, 0.5).verdict == "underpowered"  # 0.83 in the mean
    assert found(0.9, 0.85, 0.95).verdict == "reproduced"
    assert found(0.9, 0.85, 0.95).ours.startswith("Spearman 0.90 [") and "of 3 pairs" in found(0.9, 0.85, 0.95).ours


def test_linear_memory():
    def verdict(*lines: dict) -> str:
        trainable = {"quantity": "trainable_parameters", "quadratic_p": 0.0001}
        return reach("linear_memory", layer_fraction_memory=[*lines, trainable]).verdict

    assert verdict({}) == verdict({}, {"mix": "code"}) == "reproduced"
    assert verdict({"counts": 2}) == verdict({}, {"mix": "code", "counts": 3}) == "underpowered"
    assert verdict({"quadratic_p": None}) == verdict({}, {"quadratic_p": None}) == "underpowered"
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
        picks: list[dict] = [{"seed": seed, "jaccard_diagonal": jaccard} for seed in range(3)]
        picks += [{"criterion": "parameter diagonal", "jaccard_diagonal": 0.0}]
        rows = [*trained, {"criterion": "true Fisher", "nll_p": 0.001}]
        return reach("diagonal_is_enough", fisher_blocks=picks, fisher_blocks_training=rows).verdict

    same = {"criterion": "blocks of 2", "is": "same training", **NONE}
    assert verdict({}) == verdict({}, same) == verdict(same) == "reproduced"
    unknown = dict.fromkeys(("accuracy_low", "accuracy_high", "accuracy_p"))
    assert verdict(unknown | {"at_chance": None}) == verdict(unknown) == verdict({}, unknown) == "underpowered"
    assert verdict({"at_chance": None}) == "underpowered"  # an evaluation that knows no chance level
    assert verdict({"at_chance": True}) == verdict({}, {"at_chance": True}) == "underpowered"
    assert verdict({}, jaccard=0.5) == "not reproduced"
    assert verdict({"nll_p": 0.01}) == verdict({}, {"accuracy_p": 0.01}) == "not reproduced"
    assert verdict({"nll_high": 0.02}) == verdict({"accuracy_low": -0.05}) == "underpowered"
    assert verdict(NONE) == verdict({}, NONE) == "underpowered"  # the diagonal's own picks were not trained
    assert verdict() == "not run"


def test_picks_that_are_the_same_on_some_seeds_only_are_underpowered():
    def verdict(*overlaps: float) -> str:
        picks = [{"seed": seed, "jaccard_diagonal": overlap} for seed, overlap in enumerate(overlaps)]
        return reach("diagonal_is_enough", fisher_blocks=picks, fisher_blocks_training=[{}]).verdict

    assert verdict(1.0, 1.0, 0.9) == "reproduced"
    assert verdict(1.0, 1.0, 0.5) == "underpowered"  # 0.83 in the mean
    assert verdict(1.0) == "underpowered"  # one mix and seed: no interval


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


def steps(*nlls: float, ks: tuple[int, ...] = (8, 4, 2, 1), half_width: float = 0.001) -> list[dict]:
    """The steps of an NLL curve over numbers of layers, each NLL known to within `half_width`."""
    spread = max(nlls) - min(nlls)
    return [
        {
            "k_more": more, "k_fewer": fewer, "nll_range": spread, "nll_difference": after - before,
            "nll_low": after - before - half_width, "nll_high": after - before + half_width,
        }
        for (more, before), (fewer, after) in pairwise(zip(ks, nlls, strict=True))
    ]  # fmt: skip


def test_cliff():
    def verdict(*steps: dict) -> str:
        return reach("cliff", layer_fraction_steps=list(steps)).verdict

    def after(step: dict) -> list[dict]:
        """Two small steps, and this one."""
        small = {"nll_difference": 0.05, "nll_low": 0.04, "nll_high": 0.06}
        return [{"k_more": 8, "k_fewer": 4} | small, {"k_more": 4, "k_fewer": 2} | small, step]

    spread_out = {"nll_difference": 0.1, "nll_low": 0.08, "nll_high": 0.12}
    assert verdict(*after({})) == "reproduced"  # 0.3 [0.25, 0.35] of a range of 0.4
    assert verdict(*after(spread_out)) == "not reproduced"
    assert verdict(*after({"nll_low": 0.1})) == "underpowered"  # a point beyond half the range, an interval around it
    first, *others = after(spread_out)
    assert verdict(first | {"nll_high": 0.3, "nll_p": 0.3}, *others) == "underpowered"  # one cliff could hide in noise
    assert verdict(*after({"nll_p": 0.3})) == verdict(*after({"nll_difference": -0.3})) == "underpowered"


def test_no_cliff_from_fewer_numbers_of_layers_than_asked():
    def verdict(*steps: dict) -> str:
        return reach("cliff", layer_fraction_steps=list(steps)).verdict

    whole = steps(2.0, 2.01, 2.02, 2.5)
    assert verdict(*whole) == "reproduced"
    assert verdict() == verdict(*whole[2:]) == verdict(*whole[1:]) == "underpowered"
    code = [step | {"mix": "code"} for step in whole]
    assert verdict(*whole, *code) == "reproduced"
    assert verdict(*whole, *code[1:]) == "underpowered"  # a mix with too few
    same = {"is": "same training", **NONE}
    assert verdict(whole[0] | same, *whole[1:]) == "underpowered"  # the same layers under another K
    flat = {"is": "same training", "nll_range": 0.0, **NONE}
    assert verdict(flat, flat, flat) == "underpowered"


@pytest.mark.parametrize("ks", [(4, 2, 1), (8, 4, 2, 1), (30, 15, 8, 3, 1), (4, 3, 2, 1), (30, 8, 3, 2, 1)])
@pytest.mark.parametrize("half_width", [0.0, 0.001, 0.02])
def test_a_straight_line_has_no_cliff_however_wide_its_steps(ks, half_width):
    line = steps(*(2.0 - 0.01 * k for k in ks), ks=ks, half_width=half_width)
    assert reach("cliff", layer_fraction_steps=line).verdict != "reproduced"


def test_a_cliff_is_told_from_a_wide_step():
    def found(*nlls: float):
        return reach("cliff", layer_fraction_steps=steps(*nlls))

    assert found(2.0, 2.5, 2.51, 2.52).verdict == "underpowered"  # all of the loss in 8 → 4, wherever in it
    assert found(2.0, 2.0, 2.5, 2.5).verdict == "reproduced"
    # The cliff is named, not a wider step that costs as much.
    assert found(2.0, 2.45, 2.45, 3.0).ours.startswith("dolly, K 2 → 1: +0.5500 [+0.5490, +0.5510] nats, 55% of")
