"""MoE-LoRA on every layer, with M experts per layer on average, allotted by Fisher score.

A layer with one expert has no router. So it trains fewer parameters than with uniform experts, by its router.
"""

import numpy as np

from floe_bench import AdapterPlan, MethodInputs, Options
from floe_bench.baselines._stages import layer_gradients, moe_lora
from floe_bench.harness.floe.fisher import fisher_diagonal


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    scores = fisher_diagonal(layer_gradients(inputs))
    experts = allot(scores, inputs.settings.adapter.num_experts)
    config = moe_lora(inputs)
    # Whatever the family calls its list of layers.
    config.experts_pattern = {rf"\w+\.{layer}\..*": int(count) for layer, count in enumerate(experts)}
    fisher = {"fisher": scores.tolist()}
    return AdapterPlan("adapter", config, scores=fisher, details={"experts": experts.tolist()})


def allot(scores: np.ndarray, per_layer: int) -> np.ndarray:
    """Return the experts of each layer (L,): one each, and the rest in proportion to the scores.

    The total is `per_layer` times L. Shares are rounded by the largest remainder; ties go to the lower layer.
    """
    spare = (per_layer - 1) * len(scores)
    weights = scores if scores.sum() > 0 else np.ones(len(scores))
    shares = spare * weights / weights.sum()
    experts = 1 + np.floor(shares).astype(int)
    missing = per_layer * len(scores) - experts.sum()
    remainders = np.round(shares - np.floor(shares), 9)  # equal remainders may differ in their last bits
    experts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return experts
