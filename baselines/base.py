"""No adaptation: the base model as it is."""

from harness.contracts import AdapterPlan, MethodInputs, Options


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    return AdapterPlan("nothing")
