"""FLoE's layer selection (arXiv 2506.00495): choose the layers to adapt under a Taylor budget.

Let m_k = 1 for an adapted layer k and 0 otherwise, and I be the Fisher information of the layer masks.
To second order, leaving layers out costs ½ (1-m)ᵀ I (1-m).
`select` minimises this cost over layer sets S with Σ_{k∈S} T_k ≤ C and |S| ≤ K.
T_k is the Taylor importance of layer k's base weights for pre-training text.
Layers count from 0, as in PEFT's `layers_to_transform`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The rounding of float sums must not reject K layers of equal T under C = (K/L) Σ T.
BUDGET_RTOL = 1e-9
# Changes below this share of a layer's absolute Fisher row sum are rounding.
NOISE_RTOL = 1e-12
# A Fisher matrix summed in float32 is symmetric to about seven digits.
SYMMETRY_RTOL = 1e-5


@dataclass(frozen=True)
class Selection:
    """The layers to adapt, and how the search found them.

    Attributes:
        layers: adapted layers, 0-based, ascending.
        objective: ½ (1-m)ᵀ I (1-m) of `layers`.
        greedy_layers: the layers of greedy alone, before refinement.
        greedy_objective: objective of `greedy_layers`; never below `objective`.
        taylor_spent: Σ_{k∈layers} T_k, at most the budget (to a relative 1e-9).
        moves: number of swaps, adds and drops by which refinement reached `layers` from its start.
    """

    layers: tuple[int, ...]
    objective: float
    greedy_layers: tuple[int, ...]
    greedy_objective: float
    taylor_spent: float
    moves: int


@dataclass(frozen=True)
class _Problem:
    fisher: NDArray[np.float64]  # L x L, symmetric
    taylor: NDArray[np.float64]  # L
    limit: float  # the budget, with its rounding tolerance
    max_layers: int

    @property
    def noise(self) -> NDArray[np.float64]:
        """The change of the objective that rounding alone can make, per layer (L)."""
        return NOISE_RTOL * np.abs(self.fisher).sum(axis=1)


def max_layers(layer_fraction: float, n_layers: int) -> int:
    """Return K = ceil(layer_fraction · L), the most layers that may be adapted.

    Subtracts 1e-9 before rounding up, so that rounding errors do not add a layer.
    """
    return max(1, math.ceil(layer_fraction * n_layers - 1e-9))


def budget_share(layer_fraction: float, taylor_budget: float | None, factor: float, n_layers: int) -> float:
    """Return the budget as a share c = C / Σ_k T_k of all Taylor importance.

    It is `taylor_budget`, or min(1, factor · K/L) where that is None. The paper (arXiv 2506.00495) leaves c open.
    """
    return taylor_budget or min(1.0, factor * max_layers(layer_fraction, n_layers) / n_layers)


def objective(fisher: ArrayLike, layers: Iterable[int]) -> float:
    """Return ½ (1-m)ᵀ I (1-m) with m_k = 1 for k in `layers`: the cost of not adapting the other layers.

    Args:
        fisher: symmetric L x L matrix, or a vector of length L as a diagonal.
        layers: distinct layers in 0..L-1; may be empty.

    Raises:
        ValueError: `fisher` is no finite symmetric matrix or vector, or a layer is repeated or out of range.
    """
    matrix = _as_matrix(fisher)
    chosen = list(layers)
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(len(matrix))):
        raise ValueError(f"layers must be distinct numbers from 0 to {len(matrix) - 1}, got {chosen}.")
    left_out = np.ones(len(matrix))
    left_out[chosen] = 0.0
    return float(0.5 * left_out @ matrix @ left_out)


def select(fisher: ArrayLike, taylor: ArrayLike, budget: float, max_layers: int) -> Selection:
    """Choose the layers S that minimise ½ (1-m)ᵀ I (1-m) subject to Σ_{k∈S} T_k ≤ C and |S| ≤ K.

    Greedy adds one layer at a time: the one that fits and lowers the objective most. Ties go to the lower Taylor
    value, then to the lower index. Refinement then makes the swap, add or drop that lowers the objective most,
    until none lowers it.

    Refinement also runs from a second start, and the better result wins. The second start begins with all
    layers. It drops layers of least loss per unit of Taylor until the budget holds, then layers of least loss
    until K holds. Greedy needs this: it can spend a tight budget on one heavy layer, and it misses layers that
    help only together. Single swaps mend neither. The result is never worse than greedy.

    A layer that does not lower the objective is left out, even where budget and K admit it. Adapting it brings
    nothing (I_kk = 0 on a diagonal) or harm (negative off-diagonal entries). A selection holds at least one
    layer: if none lowers the objective, greedy takes the one that fits and raises it least.

    Args:
        fisher: I, symmetric L x L (full, block or diagonal), or a vector of length L as a diagonal.
        taylor: T, length L, non-negative.
        budget: C > 0, in the units of `taylor`; `math.inf` for no budget.
        max_layers: K, from 1 to L.

    Raises:
        ValueError: shapes disagree; an entry is not finite; `fisher` is asymmetric; a Taylor value is
            negative; K is outside 1..L; the budget is not positive, or below every layer's Taylor importance.
    """
    problem = _checked_problem(fisher, taylor, budget, max_layers)
    greedy = _greedy(problem)
    greedy_objective = objective(problem.fisher, _layer_numbers(greedy))
    chosen, least, moves = greedy, greedy_objective, 0
    for start in (greedy, _backward(problem)):
        end, end_moves = _refine(problem, start)
        value = objective(problem.fisher, _layer_numbers(end))
        if value < least - NOISE_RTOL * abs(least):
            chosen, least, moves = end, value, end_moves
    return Selection(
        layers=_layer_numbers(chosen),
        objective=least,
        greedy_layers=_layer_numbers(greedy),
        greedy_objective=greedy_objective,
        taylor_spent=float(problem.taylor[chosen].sum()),
        moves=moves,
    )


def _greedy(problem: _Problem) -> NDArray[np.bool_]:
    """Add the layer that fits and lowers the objective most, until none does. Return membership (L)."""
    fisher, taylor = problem.fisher, problem.taylor
    chosen = np.zeros(len(taylor), dtype=bool)
    gradient = fisher.sum(axis=1)  # I (1-m)
    while chosen.sum() < problem.max_layers:
        change = 0.5 * fisher.diagonal() - gradient
        fits = ~chosen & (taylor[chosen].sum() + taylor <= problem.limit)
        eligible = fits & (change < -problem.noise)
        if not eligible.any():
            if chosen.any():
                break
            eligible = fits
        # lexsort sorts by its last key first. It is stable, so ties keep the lowest index in front.
        best = np.lexsort((taylor, np.where(eligible, change, np.inf)))[0]
        chosen[best] = True
        gradient -= fisher[best]
    return chosen


def _backward(problem: _Problem) -> NDArray[np.bool_]:
    """Drop layers from the full set until budget and K hold. Return membership (L).

    Drops the least loss per unit of Taylor until the budget holds. Then drops the least loss until K holds and
    every remaining layer lowers the objective.
    """
    fisher, taylor = problem.fisher, problem.taylor
    chosen = taylor <= problem.limit
    gradient = fisher @ ~chosen  # I (1-m)
    while chosen.sum() > 1:
        loss = 0.5 * fisher.diagonal() + gradient
        over_budget = taylor[chosen].sum() > problem.limit
        score = _loss_per_taylor(loss, taylor) if over_budget else loss
        members = np.flatnonzero(chosen)
        least = members[score[members].argmin()]
        if not over_budget and chosen.sum() <= problem.max_layers and loss[least] > problem.noise[least]:
            break
        chosen[least] = False
        gradient += fisher[least]
    return chosen


def _loss_per_taylor(loss: NDArray[np.float64], taylor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the loss per unit of Taylor (L), infinite for a layer without cost, so that it is kept."""
    with np.errstate(over="ignore"):
        return np.divide(loss, taylor, out=np.full(len(taylor), np.inf), where=taylor > 0)


def _refine(problem: _Problem, start: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Descend by the best single swap, add or drop until none helps. Return membership (L) and the number of moves."""
    # With a phantom layer of zero Fisher and Taylor every move is a swap. Adds take it out, drops put it in.
    phantom = len(start)
    fisher = np.pad(problem.fisher, (0, 1))
    taylor = np.append(problem.taylor, 0.0)
    noise = np.append(problem.noise, 0.0)
    chosen = np.append(start, False)
    half_diagonal = 0.5 * fisher.diagonal()
    gradient = fisher @ ~chosen  # I (1-m)
    moves = 0
    while True:
        out = np.append(np.flatnonzero(chosen), phantom)[:, None]
        into = np.flatnonzero(~chosen)[None, :]
        change = (half_diagonal + gradient)[out] + (half_diagonal - gradient)[into] - fisher[out, into]
        size = chosen.sum() - (out != phantom) + (into != phantom)
        spent = taylor[chosen].sum() - taylor[out] + taylor[into]
        feasible = (size >= 1) & (size <= problem.max_layers) & (spent <= problem.limit)
        helps = feasible & (change < -(noise[out] + noise[into]))
        if not helps.any():
            return chosen[:phantom], moves
        row, column = np.unravel_index(np.where(helps, change, np.inf).argmin(), change.shape)
        leaving, entering = out[row, 0], into[0, column]
        chosen[leaving], chosen[entering], chosen[phantom] = False, True, False
        gradient += fisher[leaving] - fisher[entering]
        moves += 1


def _layer_numbers(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(chosen).tolist())


def _checked_problem(fisher: ArrayLike, taylor: ArrayLike, budget: float, max_layers: int) -> _Problem:
    """Return the checked problem. Raises ValueError as `select` does."""
    matrix = _as_matrix(fisher)
    costs = np.asarray(taylor, dtype=np.float64)
    if costs.shape != (len(matrix),):
        raise ValueError(f"taylor must have shape ({len(matrix)},), one value a layer, got {costs.shape}.")
    if not np.isfinite(costs).all() or (costs < 0).any():
        raise ValueError("taylor must hold finite, non-negative values only.")
    if not 1 <= max_layers <= len(matrix):
        raise ValueError(f"max_layers must be from 1 to {len(matrix)}, got {max_layers}.")
    if not budget > 0:
        raise ValueError(f"budget must be positive, got {budget}.")
    limit = budget * (1 + BUDGET_RTOL)
    if costs.min() > limit:
        raise ValueError(f"budget {budget} admits no layer: the smallest Taylor importance is {costs.min()}.")
    return _Problem(matrix, costs, limit, max_layers)


def _as_matrix(fisher: ArrayLike) -> NDArray[np.float64]:
    """Return the Fisher as a symmetric (L, L) float64 matrix. Raises ValueError for another form."""
    matrix = np.asarray(fisher, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"fisher must have shape (L, L), or (L,) for a diagonal, got {np.shape(fisher)}.")
    if not np.isfinite(matrix).all():
        raise ValueError("fisher must hold finite values only.")
    if np.abs(matrix - matrix.T).max() > SYMMETRY_RTOL * np.abs(matrix).max():
        raise ValueError("fisher must be symmetric: I = Iᵀ.")
    return (matrix + matrix.T) / 2
