"""The Fisher information of the layer masks, from stored gradients G. Needs numpy only, no model.

I = (1/N) Σ_n g_n g_nᵀ over N samples and L layers (FLoE, arXiv 2506.00495, layer selection).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def summed_over_modules(G_modules: ArrayLike) -> NDArray[np.float64]:
    """Return G (N, L), each layer's mask gradient: the sum over the modules of the layer.

    A layer's mask multiplies the updates of all its modules, so the derivatives add up.

    Args:
        G_modules: gradients by module, (N, L, J), or (L, J) for N = 1.

    Raises:
        ValueError: `G_modules` has neither of these shapes.
    """
    G = np.asarray(G_modules, dtype=np.float64)
    if G.ndim not in (2, 3):
        raise ValueError(f"G_modules has shape {G.shape}; expected (N, L, J) or (L, J).")
    return np.atleast_2d(G.sum(axis=-1))


def fisher_matrix(G: ArrayLike) -> NDArray[np.float64]:
    """Return the empirical Fisher I (L, L) = (1/N) Σ_n g_n g_nᵀ of mask gradients G.

    Args:
        G: (N, L), or (L,) for N = 1.

    Raises:
        ValueError: G has another shape or is empty.
    """
    G = _samples_by_layers(G)
    return G.T @ G / len(G)


def fisher_diagonal(G: ArrayLike) -> NDArray[np.float64]:
    """Return the diagonal (L,) of `fisher_matrix`: I_kk = (1/N) Σ_n g_nk².

    This is FLoE's layer score (arXiv 2506.00495, layer selection).
    """
    return np.square(_samples_by_layers(G)).mean(axis=0)


def block_fisher(I: ArrayLike, b: int) -> NDArray[np.float64]:  # noqa: E741  (I is the paper's letter)
    """Return the Fisher I (L, L) with zeros outside its diagonal blocks of `b` adjacent layers.

    Blocks start at layers 0, b, 2b, …; the last is smaller where b does not divide L. b = 1 gives the diagonal.

    Raises:
        ValueError: I is not square, or b is below 1.
    """
    fisher = np.asarray(I, dtype=np.float64)
    if fisher.ndim != 2 or fisher.shape[0] != fisher.shape[1]:
        raise ValueError(f"The Fisher matrix has shape {fisher.shape}; expected (L, L).")
    if b < 1:
        raise ValueError(f"Block size b is {b}; expected at least 1 layer.")
    block = np.arange(len(fisher)) // b
    return np.where(block[:, None] == block, fisher, 0.0)


def _samples_by_layers(G: ArrayLike) -> NDArray[np.float64]:
    """Return G as (N, L) float64. Raises ValueError for another shape or an empty array."""
    G = np.atleast_2d(np.asarray(G, dtype=np.float64))
    if G.ndim != 2 or G.size == 0:
        raise ValueError(f"G has shape {G.shape}; expected (N, L) or (L,), with at least one sample and one layer.")
    return G
