"""Every pre-flight check, on an adapter that is right and on one that is wrong in just that way."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.data.tokens import collate
from floe_bench.harness.errors import UsageError
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model import base as base_model
from floe_bench.harness.model.adapters import wrap
from floe_bench.harness.model.parameters import trainable_names
from floe_bench.harness.model.preflight import PreflightError, check_adapter

TARGETS = ["gate_proj", "down_proj"]


def moe(**changes) -> MoeLoraConfig:
    return MoeLoraConfig(**({"r": 2, "target_modules": TARGETS, "layers_to_transform": [1, 3]} | changes))


def lora(**changes) -> LoraConfig:
    return LoraConfig(**({"r": 2, "target_modules": TARGETS, "layers_to_transform": [1, 3]} | changes))


@pytest.fixture
def meta(tiny_settings):
    return base_model.on_meta(tiny_settings.model)


@pytest.fixture
def batch(tiny_examples):
    return collate(tiny_examples[:2], 258)


def check(model, config, batch, meta):
    expected = trainable_names(meta, AdapterPlan("adapter", config))
    check_adapter(model, expected, batch, float32=True)


@pytest.mark.parametrize("config", [moe(), moe(num_experts=1), lora(), lora(use_dora=False, use_rslora=True)])
def test_a_right_adapter_passes_and_is_left_as_it_was(config, tiny, meta, batch):
    model = wrap(tiny[0], config, float32=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = trainable_names(meta, AdapterPlan("adapter", config))
    state = torch.get_rng_state()
    check_adapter(model, expected, batch, float32=True)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[name], p) for name, p in before.items())
    assert all(p.grad is None for p in after.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.peft_config) == ["default"]


def test_the_shape_alone_tells_the_trainable_parameters(meta):
    names = trainable_names(meta, AdapterPlan("adapter", moe()))
    # A (r, d_in), B (d_out, M r), R (M, d_in) of a 16-to-24 and a 24-to-16 module in two layers
    assert sum(names.values()) == 2 * ((2 * 16 + 24 * 8 + 4 * 16) + (2 * 24 + 16 * 8 + 4 * 24))
    assert trainable_names(meta, AdapterPlan("nothing")) == {}
    assert sum(trainable_names(meta, AdapterPlan("everything")).values()) == sum(p.numel() for p in meta.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (moe(target_modules=["gate_prj"]), "gate_prj.*gate_proj"),
        (lora(target_modules=["gate_proj", "nothing"]), "nothing"),
        (moe(layers_to_transform=[1, 9]), "layer 9"),
        (lora(rank_pattern={"up_proj": 3}), "rank_pattern 'up_proj'"),
        (moe(alpha_pattern={"layers.7.*": 3}), "alpha_pattern"),
        (moe(r=17), "r = 17 is above 16"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*rank_pattern.*|.*alpha_pattern.*:RuntimeWarning")
def test_what_peft_passes_over_is_refused(config, message, meta):
    before = {name for name, _ in meta.named_parameters()}
    with pytest.raises(UsageError, match=message):
        trainable_names(meta, AdapterPlan("adapter", config))
    assert {name for name, _ in meta.named_parameters()} == before


def test_another_trainable_parameter_is_found(tiny, meta, batch):
    model = wrap(tiny[0], moe(), float32=True)
    model.base_model.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(PreflightError, match="lm_head"):
        check(model, moe(), batch, meta)


def test_an_adapter_that_does_not_start_at_the_base_model_is_found(tiny, meta, batch):
    model = wrap(tiny[0], moe(init_weights=False), float32=True)
    with pytest.raises(PreflightError, match="changes the base model's logits"):
        check(model, moe(), batch, meta)


def test_a_parameter_without_gradient_is_found(tiny, meta, batch, monkeypatch):
    model = wrap(tiny[0], moe(), float32=True)
    router = model.base_model.model.model.layers[1].mlp.gate_proj.moe_lora_router["default"]
    monkeypatch.setattr(router, "forward", lambda x: nn.functional.linear(x, router.weight.detach()))
    with pytest.raises(PreflightError, match=r"layers\.1\.mlp\.gate_proj\.moe_lora_router"):
        check(model, moe(), batch, meta)


def test_a_non_finite_gradient_is_found(tiny, meta, batch):
    model = wrap(tiny[0], moe(), float32=True)
    down = model.base_model.model.model.layers[3].mlp.down_proj.moe_lora_A["default"]
    down.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(PreflightError, match="no finite non-zero gradient"):
        check(model, moe(), batch, meta)


def test_an_adapter_that_comes_back_changed_from_disk_is_found(tiny, meta, batch, monkeypatch):
    model = wrap(tiny[0], moe(), float32=True)
    load = model.load_adapter

    def load_badly(folder, name, **options):
        load(folder, name, **options)
        model.base_model.model.model.layers[1].mlp.gate_proj.moe_lora_B[name].weight.data.mul_(0.9)

    monkeypatch.setattr(model, "load_adapter", load_badly)
    with pytest.raises(PreflightError, match="after save and load"):
        check(model, moe(), batch, meta)
