"""Dropout against its definition: rate, scale, independence, gradients, and the random state that drives it."""

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import nn

from floe_bench.harness.floe.tuner.dropout import LEVELS, Dropout


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_zero_at_the_rate_or_scaled_by_its_inverse(p, dtype):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(397, 101, dtype=dtype))
    kept = y != 0
    rate = round(p * LEVELS) / LEVELS
    assert binomtest(int((~kept).sum()), y.numel(), rate).pvalue > 1e-3
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / (1 - rate)))
    assert y.dtype == dtype


def test_the_four_elements_of_a_draw_fall_alike_and_independently():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(40_000)) != 0).view(-1, 4).long()
    patterns = (kept * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert chisquare(patterns.numpy()).pvalue > 1e-3


def test_the_gradient_passes_where_the_input_does():
    torch.manual_seed(0)
    x = torch.randn(7, 5, requires_grad=True)
    y = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)


def test_pytorchs_seed_decides_the_mask():
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(64))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_evaluation_and_p_of_zero_return_the_input():
    x = torch.randn(3)
    assert Dropout(0.5).eval()(x) is x
    torch.testing.assert_close(Dropout(0.0)(x), nn.functional.dropout(x, 0.0), rtol=0, atol=0)


def test_inputs_without_elements_or_of_odd_sizes():
    assert Dropout(0.5)(torch.ones(0, 4)).shape == (0, 4)
    assert Dropout(0.5)(torch.ones(3, 1, 3)).shape == (3, 1, 3)
