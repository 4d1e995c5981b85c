"""Ranks, top layers and picks, by hand."""

from floe_bench.harness.experiments import _gradients
from floe_bench.harness.spec import profiles


def test_rank_1_is_the_highest_score_and_ties_go_to_the_lower_layer():
    assert _gradients.ranks([0.1, 3.0, 0.5, 3.0]).tolist() == [4, 1, 3, 2]
    assert _gradients.ranks([[1.0, 2.0], [2.0, 1.0]]).tolist() == [[2, 1], [1, 2]]


def test_top_takes_k_layers_and_picks_keep_to_the_taylor_budget():
    settings = profiles.load(
        "tiny", {"selection.layer_fraction": 0.4, "selection.taylor_budget": 0.4}
    ).selection  # K = 2 of 5
    scores = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert _gradients.top(scores, settings) == (0, 1)
    assert _gradients.picks(scores, [1.0, 9.0, 1.0, 1.0, 1.0], settings) == (0, 2)  # layer 1 alone is over 2/5 of 13
