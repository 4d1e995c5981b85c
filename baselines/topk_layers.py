"""MoE-LoRA on the top K layers by one score, or on the first, last or evenly spaced K."""

from typing import Literal

import numpy as np

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._match import MatchOptions, matched_rank
from floe_bench.baselines._stages import layer_gradients, max_layers, moe_lora
from floe_bench.harness.floe.fisher import fisher_diagonal


class Options(MatchOptions):
    score: Literal["fisher", "taylor", "gradient_norm", "weight_magnitude", "first", "last", "even"] = "fisher"


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    scores = layer_scores(inputs, options.score)
    layers = np.argsort(-scores, kind="stable")[: max_layers(inputs)].tolist()
    r, matched = matched_rank(inputs, options.match, lambda r: moe_lora(inputs, layers, r))
    return AdapterPlan(
        "adapter",
        moe_lora(inputs, layers, r),
        k=len(layers),
        scores={options.score: scores.tolist()},
        matched=matched,
    )


def layer_scores(inputs: MethodInputs, score: str) -> np.ndarray:
    """Return the scores (L,): the higher, the sooner adapted.

    Taylor scores are negated, because pre-training depends little on layers of low Taylor importance.
    """
    from floe_bench.harness.floe import importance

    n, k = inputs.n_layers, max_layers(inputs)
    if score == "fisher":
        return fisher_diagonal(layer_gradients(inputs))
    if score == "taylor":
        return -inputs.measure(importance.taylor, on="pretrain")["T"]
    if score == "gradient_norm":
        return inputs.measure(importance.gradient_norm, on="task")["norm"]
    if score == "weight_magnitude":
        return inputs.measure(importance.weight_magnitude, on="nothing")["magnitude"]
    if score == "even":
        return np.isin(np.arange(n), np.linspace(0, n - 1, k).round()).astype(float)
    return np.arange(n, dtype=float) * (1 if score == "last" else -1)
