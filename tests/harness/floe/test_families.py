"""NLL, loss and layer scores of every model family, against plain forward passes and plain derivatives."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from floe_bench.harness.data.tokens import Example, collate
from floe_bench.harness.evaluation.nll import row_nll
from floe_bench.harness.floe.decoder import LINEAR, base_weights, decoder_layers
from floe_bench.harness.floe.importance import fisher_gradients, taylor
from floe_bench.harness.floe.labels import at_labels
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model.shape import text_config
from floe_bench.harness.model.targets import READ_BY_KERNELS

from ..families import FAMILIES, config_of

PAD = 258


def examples() -> list[Example]:
    """Rows of other lengths, the first three tokens a prompt."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 256, (n,), generator=draw).tolist() for n in (21, 13, 5, 17)]
    return [Example(input_ids=row, labels=[-100] * 3 + row[3:], truncated=False, control_text=False) for row in rows]


def plain_nll(model, example: Example) -> torch.Tensor:
    """NLL of each completion token, from one forward pass of the row alone."""
    logits = model(torch.tensor([example["input_ids"]])).logits[0]
    return F.cross_entropy(logits[2:-1], torch.tensor(example["input_ids"][3:]), reduction="none")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_measured_on_padded_batches_is_what_plain_passes_say(family):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(text_config(config_of(family)), dtype=torch.float32).eval()
    rows = examples()
    nll = [plain_nll(model, row) for row in rows]
    n_tokens = sum(map(len, nll))
    # Sums of some 20 losses of 6 nats in float32: a few last bits of 1e-5.
    assert row_nll(model, rows, 4, PAD)["nll"].tolist() == pytest.approx([each.sum().item() for each in nll], abs=1e-4)
    batch = collate(rows, PAD)
    loss = model(**batch, **at_labels(batch), use_cache=False).loss
    assert loss.item() == pytest.approx(torch.cat(nll).mean().item(), abs=1e-5)

    batches = [collate(rows[:2], PAD), collate(rows[2:], PAD)]
    (torch.cat(nll).sum() / n_tokens).backward()
    layers = [base_weights(layer) for layer in decoder_layers(model)]
    expected = [sum((p.grad * p).abs().sum().item() for p in layer if p.grad is not None) for layer in layers]
    model.zero_grad()
    assert taylor(model, batches)["T"] == pytest.approx(expected, rel=1e-4)

    linear = {name.rpartition(".")[2] for name, m in decoder_layers(model).named_modules() if isinstance(m, LINEAR)}
    linear -= set(READ_BY_KERNELS.get(family, ()))
    config = MoeLoraConfig(r=2, target_modules=linear, init_weights=False, lora_dropout=0.0)
    adapted = get_peft_model(model, config).eval()
    G = fisher_gradients(adapted, batches)["G"]
    for n, row in enumerate(rows):
        adapted.zero_grad()
        plain_nll(adapted, row).mean().backward()
        # The update is linear in B, so ∂ℓ/∂m of a layer is the sum of ⟨∂ℓ/∂B, B⟩ over its modules.
        expected = [
            sum(
                (p.grad * p).sum().item()
                for name, p in layer.named_parameters()
                if p.grad is not None and "moe_lora_B" in name
            )
            for layer in decoder_layers(adapted)
        ]
        # Sums of terms of either sign: what rounds is the terms, however small the sum.
        assert G[n] == pytest.approx(expected, rel=1e-3, abs=1e-3 * np.abs(G).max())
