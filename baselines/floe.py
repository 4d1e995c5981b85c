"""FLoE: pilot, Fisher layers under a Taylor budget, TPE rank search, MoE-LoRA on those layers (arXiv 2506.00495)."""

from baselines._stages import moe_lora, select_layers, with_searched_rank
from harness.contracts import AdapterPlan, MethodInputs, Options
from harness.floe.rank_search import search


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    chosen, details = select_layers(inputs)
    settings = inputs.settings.search
    workspace = inputs.workspace("rank_search")

    def validation_nll(r: int) -> float:
        return inputs.probe(moe_lora(inputs, chosen.layers, r))

    found = search(
        validation_nll,
        settings.r_min,
        settings.r_max,
        settings.trials,
        seed=inputs.seed,
        storage=f"sqlite:///{workspace / 'optuna.db'}" if workspace else None,
    )
    for r in found.ranks:  # a search that was killed and resumed has not asked for all: charge them alike
        validation_nll(r)
    return with_searched_rank(inputs, chosen.layers, found, details)
