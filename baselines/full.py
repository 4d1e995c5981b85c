"""Full fine-tuning: every weight of the model, at a tenth of the adapters' learning rate."""

from pydantic import Field

import floe_bench
from floe_bench import AdapterPlan, MethodInputs


class Options(floe_bench.Options):
    learning_rate_ratio: float = Field(0.1, gt=0)


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    return AdapterPlan("everything", learning_rate_ratio=options.learning_rate_ratio)
