"""No adaptation: measures layer scores on a sample of the mix, for the tables on rankings."""

from typing import Literal

from baselines._sample import SampleOptions
from baselines._stages import layer_gradients, moe_lora
from harness.contracts import AdapterPlan, MethodInputs
from harness.floe import fisher_ablations, importance

Name = Literal["fisher", "taylor", "gradient_norm", "weight_magnitude", "true_fisher", "parameter_diagonal"]


class Options(SampleOptions):
    scores: tuple[Name, ...] = ("fisher", "taylor")


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    return AdapterPlan("nothing", details={name: _score(inputs, options, name) for name in options.scores})


def _score(inputs: MethodInputs, options: Options, name: Name) -> list[float]:
    sample, pilot = options.sample, moe_lora(inputs)
    if name == "fisher":
        return importance.fisher_diagonal(layer_gradients(inputs, sample)).tolist()
    if name == "taylor":
        return inputs.measure(importance.taylor, on="pretrain")["T"].tolist()
    if name == "gradient_norm":
        return inputs.measure(importance.gradient_norm, on="task", sample=sample)["norm"].tolist()
    if name == "weight_magnitude":
        return inputs.measure(importance.weight_magnitude, on="nothing")["magnitude"].tolist()
    if name == "true_fisher":
        scorer = fisher_ablations.true_fisher_gradients
        G = inputs.measure(scorer, on="task", pilot=pilot, sample=sample, seed=inputs.seed)["G"]
        return importance.fisher_diagonal(G).tolist()
    return inputs.measure(fisher_ablations.parameter_diagonal, on="task", pilot=pilot, sample=sample)["D"].tolist()
