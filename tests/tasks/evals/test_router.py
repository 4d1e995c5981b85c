"""Gates by hand: a softmax over the router's logits for every token that the adapted modules saw."""

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLayer
from floe_bench.harness.model import adapters
from floe_bench.harness.model import base as base_model
from floe_bench.harness.spec import profiles
from floe_bench.tasks.evals import router

M, LAYERS = 3, (0, 2)


def adapted(num_experts: int = M, **config: Any) -> Any:
    """The tiny model with a MoE-LoRA adapter of random weights on the down projections of two layers."""
    model = base_model.load_model(profiles.load("tiny").model)
    config = {"r": 2, "target_modules": ["down_proj"], "layers_to_transform": list(LAYERS)} | config
    wrapped = adapters.wrap(model, MoeLoraConfig(num_experts=num_experts, **config), float32=True)
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "moe_lora" in name:
            nn.init.normal_(parameter, std=0.5)
    return wrapped.eval()


class Reads:
    """An evaluation's inputs: a row's bytes are its tokens."""

    def __init__(self, model: Any):
        self.model = model
        self.settings = profiles.load("tiny", {"eval.nll_mixes": "dolly,code"})
        self.read: list[str] = []

    def validation(self, mix: str) -> list[Row]:
        return [Row(f"{mix} {i}", "x" * (3 * i + 2), mix) for i in range(5)]

    def nll(self, rows: list[Row]) -> pd.DataFrame:
        for row in rows:
            with torch.no_grad():
                self.model(tokens(row))
            self.read.append(row.prompt or "")
        return pd.DataFrame({"nll": 0.0, "tokens": 1, "tokens_read": [tokens(row).numel() for row in rows]})


def tokens(row: Row) -> torch.Tensor:
    return torch.tensor([list(f"{row.prompt} {row.completion}".encode())])


def by_hand(model: Any, rows: list[Row]) -> dict[str, tuple[torch.Tensor, float]]:
    """Mean gate and mean entropy of every adapted module over all tokens of all rows."""
    logits: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if hasattr(module, "moe_lora_router"):

            def keep(module: Any, args: Any, name: str = name) -> None:
                weight = module.moe_lora_router["default"].weight
                logits.setdefault(name, []).append((args[0] @ weight.T).flatten(0, 1))

            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        for row in rows:
            model(tokens(row))
    for handle in handles:
        handle.remove()
    found = {}
    for name, parts in logits.items():
        gate = torch.softmax(torch.cat(parts).double(), dim=-1)
        found[name] = gate.mean(0), float(-(gate * gate.log()).sum(-1).mean())
    return found


def reads(model: Any) -> Any:
    return Reads(model)


def scored(model: Any) -> Any:
    inputs = reads(model)
    return router.score(inputs, router.items(inputs))


def test_items_are_two_rows_of_each_mix_that_the_nll_is_measured_on():
    items = router.items(reads(None))
    assert [item["prompt"] for item in items] == ["dolly 0", "dolly 1", "code 0", "code 1"]


def test_gates_are_those_by_hand():
    model = adapted()
    inputs = reads(model)
    expected = by_hand(model, [row for mix in ("dolly", "code") for row in inputs.validation(mix)[:2]])
    found = router.score(inputs, router.items(inputs))
    assert len(expected) == len(LAYERS) and found.score.n_items == len(found.items) == len(LAYERS) * M
    by_module = dict(list(found.items.groupby("module")))
    for name, (gate, entropy) in expected.items():
        lines = by_module[name]
        assert lines["expert"].tolist() == [*range(M)]
        assert lines["mean_gate"].tolist() == pytest.approx(gate.tolist(), rel=1e-5)
        assert lines["entropy"].tolist() == pytest.approx([entropy] * M, rel=1e-5)
    largest = [float(gate.max()) for gate, _ in expected.values()]
    assert found.score.metrics["max_gate"] == pytest.approx(sum(largest) / len(largest), rel=1e-5)
    entropies = [entropy for _, entropy in expected.values()]
    assert found.score.metrics["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    assert min(largest) < max(largest), "the two modules do not differ: any average would do"


def test_tokens_are_those_read():
    inputs = reads(adapted())
    found = router.score(inputs, router.items(inputs))
    assert inputs.read == ["dolly 0", "dolly 1", "code 0", "code 1"]
    read = [row for mix in ("dolly", "code") for row in inputs.validation(mix)[:2]]
    assert found.score.tokens == sum(tokens(row).numel() for row in read)


def with_logits(model: Any, logits: list[float]) -> Any:
    """The model with routers that answer `logits` to every token."""
    for module in model.modules():
        if isinstance(module, MoeLoraLayer):
            constant = nn.Linear(module.in_features, M)
            nn.init.zeros_(constant.weight)
            constant.bias.data = torch.tensor(logits)
            module.moe_lora_router["default"] = constant
    return model


def test_an_even_router_gives_one_over_m_and_the_largest_entropy():
    metrics = scored(with_logits(adapted(), [0.0] * M)).score.metrics
    assert metrics == {"max_gate": pytest.approx(1 / M), "entropy": pytest.approx(math.log(M))}


def test_a_collapsed_router_gives_one_and_no_entropy():
    metrics = scored(with_logits(adapted(), [0.0, 60.0, 0.0])).score.metrics
    assert metrics == {"max_gate": pytest.approx(1.0), "entropy": pytest.approx(0.0, abs=1e-6)}


@pytest.mark.parametrize("model", [SimpleNamespace(modules=list), None], ids=["no adapter", "one expert"])
def test_a_model_without_a_router_has_nothing_to_say(model):
    found = scored(model or adapted(num_experts=1))
    assert found.score.metrics == {} and found.score.n_items == len(found.items) == found.score.tokens == 0


def test_modules_of_one_expert_have_no_lines():
    found = scored(adapted(experts_pattern={r"layers\.2\..*": 1}))
    assert found.items["module"].nunique() == 1 and "layers.0." in found.items["module"][0]
