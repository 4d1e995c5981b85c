"""FLoE's stages, shared by the methods: adapter configuration, pilot scores, layer selection and the final plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from floe_bench import OWN_ROWS, AdapterPlan, MethodInputs, Sample, Searched, Selected, Trial, UsageError
from floe_bench.harness.floe import selection
from floe_bench.harness.floe.fisher import fisher_diagonal
from floe_bench.harness.floe.rank_search import RankSearch

if TYPE_CHECKING:
    from floe_bench.harness.floe.tuner import MoeLoraConfig


class LayerFacts(TypedDict):
    """What an `AdapterPlan` keeps of a selection of layers."""

    k: int
    scores: dict[str, list[float]]
    selected: Selected


def moe_lora(inputs: MethodInputs, layers: Sequence[int] | None = None, r: int | None = None) -> MoeLoraConfig:
    """Return the settings' MoE-LoRA on `layers` (None: all of them), with rank `r` (None: the settings')."""
    from floe_bench.harness.floe.tuner import MoeLoraConfig

    adapter = inputs.settings.adapter
    return MoeLoraConfig(
        r=adapter.r if r is None else r,
        lora_alpha=adapter.lora_alpha,
        num_experts=adapter.num_experts,
        lora_dropout=adapter.lora_dropout,
        target_modules=list(adapter.target_modules),
        layers_to_transform=list(range(inputs.n_layers)) if layers is None else sorted(layers),
        task_type="CAUSAL_LM",
    )


def max_layers(inputs: MethodInputs) -> int:
    """Return K, the most layers that a selecting method may adapt."""
    return selection.max_layers(inputs.settings.selection.layer_fraction, inputs.n_layers)


def layer_gradients(inputs: MethodInputs, sample: Sample = OWN_ROWS) -> np.ndarray:
    """Return G (N, L): each calibration sample's gradient with respect to the layer masks, with the pilot on."""
    from floe_bench.harness.floe import importance

    return inputs.measure(importance.fisher_gradients, on="task", pilot=moe_lora(inputs), sample=sample)["G"]


def select_layers(
    inputs: MethodInputs, sample: Sample = OWN_ROWS, fisher: np.ndarray | None = None
) -> tuple[tuple[int, ...], LayerFacts]:
    """Return the layers that FLoE selects under the Taylor budget (arXiv 2506.00495, layer selection).

    Also returns what the plan keeps of their selection.

    Args:
        fisher: vector (L,) or matrix (L, L) to use in place of the diagonal Fisher.

    Raises:
        UsageError: the Taylor budget fits no layer.
    """
    from floe_bench.harness.floe import importance

    diagonal = fisher_diagonal(layer_gradients(inputs, sample))
    taylor = inputs.measure(importance.taylor, on="pretrain")["T"]
    settings = inputs.settings.selection
    share = selection.budget_share(
        settings.layer_fraction, settings.taylor_budget, settings.taylor_budget_factor, inputs.n_layers
    )
    if taylor.min() > share * taylor.sum():
        raise UsageError(
            f"setting selection.taylor_budget = {share:.3g}: no layer fits; the least important one holds "
            f"{taylor.min() / taylor.sum():.3g} of all Taylor importance"
        )
    scores = diagonal if fisher is None else fisher
    k, budget = max_layers(inputs), share * float(taylor.sum())
    chosen = selection.select(scores, taylor, budget, k)
    selected = Selected(
        taylor_budget=budget,
        taylor_spent=chosen.taylor_spent,
        objective=chosen.objective,
        greedy_objective=chosen.greedy_objective,
    )
    layer_scores = {"fisher": diagonal.tolist(), "taylor": taylor.tolist()}
    return chosen.layers, LayerFacts(k=k, scores=layer_scores, selected=selected)


def with_searched_rank(
    inputs: MethodInputs, layers: Sequence[int], search: RankSearch, facts: LayerFacts
) -> AdapterPlan:
    """Return the plan of FLoE's target adaptation: MoE-LoRA of the found rank on the layers."""
    searched = Searched(
        trials=tuple(Trial(**vars(trial)) for trial in search.trials),
        unique_trainings=search.unique_trainings,
        optimum_at_edge=search.at_edge,
    )
    config = moe_lora(inputs, layers, search.r)
    return AdapterPlan("adapter", config, rank_range=(search.low, search.high), searched=searched, **facts)
