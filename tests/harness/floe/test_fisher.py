"""The Fisher matrices of stored gradients against their definitions."""

import numpy as np
import pytest

from floe_bench.harness.floe.fisher import block_fisher, fisher_diagonal, fisher_matrix, summed_over_modules


def test_gradients_are_summed_over_modules():
    G_modules = np.random.default_rng(0).normal(size=(4, 3, 2))
    expected = [[G_modules[n, k, 0] + G_modules[n, k, 1] for k in range(3)] for n in range(4)]
    np.testing.assert_allclose(summed_over_modules(G_modules), expected)
    np.testing.assert_allclose(summed_over_modules(G_modules[1]), expected[1:2])
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(N, L, J\)"):
        summed_over_modules(np.zeros(3))


def test_fisher_matrix_is_the_mean_outer_product():
    G = np.random.default_rng(0).normal(size=(50, 4))
    expected = np.zeros((4, 4))
    for g in G:
        for i in range(4):
            for j in range(4):
                expected[i, j] += g[i] * g[j] / 50
    np.testing.assert_allclose(fisher_matrix(G), expected, rtol=1e-12)
    np.testing.assert_allclose(fisher_diagonal(G), [expected[k, k] for k in range(4)], rtol=1e-12)


def test_fisher_matrix_of_float32_gradients_sums_in_float64():
    G = np.full((3, 2), 1e-30, dtype=np.float32)  # squares underflow in float32
    np.testing.assert_allclose(fisher_matrix(G), np.full((2, 2), 1e-60), rtol=1e-6)
    np.testing.assert_allclose(fisher_diagonal(G), np.full(2, 1e-60), rtol=1e-6)


def test_a_single_row_counts_as_one_sample():
    g = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(fisher_matrix(g), [[1, -2, 3], [-2, 4, -6], [3, -6, 9]])
    np.testing.assert_array_equal(fisher_diagonal(g), [1, 4, 9])


@pytest.mark.parametrize("fisher", [fisher_matrix, fisher_diagonal])
@pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 3, 3)])
def test_wrong_shapes_of_G_are_refused(fisher, shape):
    with pytest.raises(ValueError, match="expected \\(N, L\\)"):
        fisher(np.zeros(shape))


def test_block_fisher_keeps_the_blocks():
    fisher = np.arange(1, 26).reshape(5, 5)
    expected = [
        [1, 2, 0, 0, 0],
        [6, 7, 0, 0, 0],
        [0, 0, 13, 14, 0],
        [0, 0, 18, 19, 0],
        [0, 0, 0, 0, 25],
    ]
    np.testing.assert_array_equal(block_fisher(fisher, 2), expected)
    np.testing.assert_array_equal(block_fisher(fisher, 1), np.diag([1, 7, 13, 19, 25]))
    for b in (5, 7):
        np.testing.assert_array_equal(block_fisher(fisher, b), fisher)


@pytest.mark.parametrize(
    ("shape", "b", "message"),
    [((2, 3), 1, r"expected \(L, L\)"), ((3,), 1, r"expected \(L, L\)"), ((3, 3), 0, "b is 0")],
)
def test_wrong_blocks_are_refused(shape, b, message):
    with pytest.raises(ValueError, match=message):
        block_fisher(np.zeros(shape), b)
