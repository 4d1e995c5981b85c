"""No adaptation: layer scores measured on a sample of the mix, for the tables on rankings."""

from typing import Literal

import numpy as np

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._sample import SampleOptions
from floe_bench.baselines._stages import layer_gradients, max_layers, moe_lora
from floe_bench.harness.floe.fisher import fisher_diagonal

Name = Literal[
    "fisher", "taylor", "gradient_norm", "weight_magnitude", "true_fisher", "parameter_diagonal", "adapter_fisher"
]

ADAPTER_ENTRIES = 8
"""Entries of each module's B in the full Fisher over parameters: 768 in all for 32 layers of three modules."""


class Options(SampleOptions):
    scores: tuple[Name, ...] = ("fisher", "taylor")


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    scores = {name: _score(inputs, options, name) for name in options.scores}
    return AdapterPlan("nothing", k=max_layers(inputs), scores=scores)


def _score(inputs: MethodInputs, options: Options, name: Name) -> list[float]:
    from floe_bench.harness.floe import fisher_ablations, importance

    sample, pilot = options.sample, moe_lora(inputs)
    if name == "fisher":
        return fisher_diagonal(layer_gradients(inputs, sample)).tolist()
    if name == "taylor":
        return inputs.measure(importance.taylor, on="pretrain")["T"].tolist()
    if name == "gradient_norm":
        return inputs.measure(importance.gradient_norm, on="task", sample=sample)["norm"].tolist()
    if name == "weight_magnitude":
        return inputs.measure(importance.weight_magnitude, on="nothing")["magnitude"].tolist()
    if name == "true_fisher":
        scorer = fisher_ablations.true_fisher_gradients
        G = inputs.measure(scorer, on="task", pilot=pilot, sample=sample, seed=inputs.seed)["G"]
        return fisher_diagonal(G).tolist()
    if name == "adapter_fisher":
        scorer = fisher_ablations.adapter_fisher
        F = inputs.measure(scorer, on="task", pilot=pilot, sample=sample, entries=ADAPTER_ENTRIES)["F"]
        return np.atleast_2d(F).diagonal().tolist()  # the F of a dry run is a vector
    return inputs.measure(fisher_ablations.parameter_diagonal, on="task", pilot=pilot, sample=sample)["D"].tolist()
