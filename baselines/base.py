"""No adaptation: the base model as it is."""

from floe_bench import AdapterPlan, MethodInputs, Options


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    return AdapterPlan("nothing")
