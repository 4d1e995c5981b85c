"""Reusing what the frozen layers below the adapters give, against running them every time: bit for bit."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import set_seed

from harness.data import collate
from harness.floe.decoder import decoder_layers
from harness.floe.frozen_prefix import FrozenPrefix, lowest_adapted_layer
from harness.floe.tuner import MoeLoraConfig
from harness.nll import row_nll

PAD = 0


@pytest.fixture
def examples():
    """Fourteen rows of 3 to 16 tokens: batches differ in length, and some hold padding."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 32, (3 + i,), generator=draw).tolist() for i in range(14)]
    return [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "truncated": False} for ids in rows]


def moe_lora(layers, r=2) -> MoeLoraConfig:
    return MoeLoraConfig(
        r=r, num_experts=2, lora_dropout=0.2, target_modules=["up_proj", "down_proj"], layers_to_transform=list(layers)
    )


def adapted(base, layers=(2,), r=2):
    """The base with a fresh adapter, the same for the same rank."""
    set_seed(r)
    return get_peft_model(base, moe_lora(layers, r))


def probe(base, config, examples, reuse: FrozenPrefix | None, scope=None):
    """Train on ten rows over two epochs of different order, judge the others. All that it leaves behind."""
    set_seed(0)
    model = get_peft_model(base, config).train()
    order = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    with reuse.reused(model, scope) if reuse else nullcontext():
        for _ in range(2):
            for rows in torch.randperm(10, generator=order).split(2):
                loss = model(**collate([examples[i] for i in rows], PAD), use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
        nll = row_nll(model.eval(), examples[10:], 2, PAD)["nll"].tolist()
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.unload()
    base.eval()
    return losses, nll, weights, torch.get_rng_state()


def assert_same(found, wanted) -> None:
    assert found[:2] == wanted[:2]
    assert found[2].keys() == wanted[2].keys()
    assert all(torch.equal(found[2][name], weight) for name, weight in wanted[2].items())
    assert torch.equal(found[3], wanted[3]), "the random stream has moved"


@pytest.fixture
def count():
    """count(model): how often each decoder layer has really been run."""

    def start(model) -> Counter:
        calls: Counter = Counter()
        for k, layer in enumerate(decoder_layers(model)):
            layer.get_submodule("mlp").register_forward_pre_hook(lambda module, args, k=k: calls.update([k]))
        return calls

    return start


# --- exactly the same -------------------------------------------------------------------------------


def test_probes_of_several_ranks_are_the_same_to_the_last_bit(architecture, tiny_model, examples, count):
    """Ten rows in twos over two epochs are 10 distinct batches, four more are judged in 2."""
    base = tiny_model(architecture)
    ranks = (2, 3, 5)
    plain = [probe(base, moe_lora([2], r), examples, None) for r in ranks]
    assert plain[0][1] != plain[1][1]
    calls, prefix = count(base), FrozenPrefix()
    for r, wanted in zip(ranks, plain, strict=True):
        assert_same(probe(base, moe_lora([2], r), examples, prefix), wanted)
        assert calls[2] == 12 * (ranks.index(r) + 1)
        assert calls[0] == calls[1] == prefix.batches == 12


def test_a_batch_that_comes_again_in_the_same_training_is_reused(tiny_model, examples, count):
    """Rows that are all alike make one batch of them all."""
    base, prefix = tiny_model(), FrozenPrefix()
    calls = count(base)
    probe(base, moe_lora([1]), [examples[5]] * 10 + examples[10:], prefix)
    assert (calls[0], calls[1], prefix.batches) == (3, 12, 3)


@pytest.mark.parametrize("layers", [[1], [2], [1, 2]])
def test_every_lowest_layer(layers, tiny_model, examples):
    base, prefix = tiny_model(), FrozenPrefix()
    for r in (2, 3):
        wanted = probe(base, moe_lora(layers, r), examples, None)
        assert_same(probe(base, moe_lora(layers, r), examples, prefix), wanted)


# --- what is never shared ---------------------------------------------------------------------------


def test_another_lowest_layer_base_model_or_scope_starts_anew(tiny_model, examples, count):
    base, other = tiny_model(), tiny_model()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    prefix = FrozenPrefix()
    uses = [(base, [2], "a"), (base, [1], "a"), (base, [2], "a"), (other, [2], "a"), (other, [2], "b")]
    for model, layers, scope in uses:
        wanted = probe(model, moe_lora(layers), examples, None)
        calls = count(model)
        assert_same(probe(model, moe_lora(layers), examples, prefix, scope), wanted)
        assert calls[0] == prefix.batches > 0
    wanted = probe(other, moe_lora([2], 3), examples, None)
    calls = count(other)
    assert_same(probe(other, moe_lora([2], 3), examples, prefix, "b"), wanted)
    assert calls[0] == 0


IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
ONES = torch.ones_like(IDS)


def last_hidden(model, ids=IDS, mask=ONES, **kwargs):
    return model(input_ids=ids, attention_mask=mask, **{"use_cache": False, **kwargs}).logits


@pytest.mark.parametrize(
    "inputs",
    [
        {"ids": IDS.flip(0)},
        {"ids": IDS[:, 1:], "mask": ONES[:, 1:]},
        {"ids": IDS[1:], "mask": ONES[1:]},
        {"mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])},
        {"mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])},
        {"position_ids": torch.arange(3, 8)[None]},
    ],
)
def test_a_batch_is_known_by_its_whole_content(inputs, tiny_model):
    model = adapted(tiny_model()).eval()
    wanted = last_hidden(model, **inputs)
    assert not torch.equal(wanted, last_hidden(model)[: wanted.shape[0], : wanted.shape[1]])
    prefix = FrozenPrefix()
    with prefix.reused(model):
        last_hidden(model)
        for _ in range(2):
            assert torch.equal(last_hidden(model, **inputs), wanted)
    assert prefix.batches == 2


def test_modes_of_computation_are_told_apart(tiny_model):
    model = adapted(tiny_model()).eval()

    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return last_hidden(model)

    def inference():
        with torch.inference_mode():
            return last_hidden(model)

    wanted = autocast()
    assert not torch.equal(wanted, last_hidden(model))
    prefix = FrozenPrefix()
    with prefix.reused(model):
        for _ in range(2):
            inference()
            last_hidden(model).sum().backward()  # fails on tensors made in inference mode
            assert torch.equal(autocast(), wanted)
    assert prefix.batches == 3


def test_a_pass_that_returns_more_than_the_last_layer_runs_in_full(tiny_model):
    model = adapted(tiny_model()).eval()
    wanted = last_hidden(model)
    hidden = model(input_ids=IDS, attention_mask=ONES, use_cache=False, output_hidden_states=True).hidden_states
    prefix = FrozenPrefix()
    with prefix.reused(model):
        last_hidden(model)
        found = model(input_ids=IDS, attention_mask=ONES, use_cache=False, output_hidden_states=True).hidden_states
        cache = model(input_ids=IDS[:, :3], attention_mask=ONES[:, :3], use_cache=True).past_key_values
        continued = model(input_ids=IDS[:, 3:], attention_mask=ONES, past_key_values=cache).logits
    assert all(map(torch.equal, found, hidden)) and len(found) == 4
    assert torch.allclose(continued, wanted[:, 3:], atol=1e-5)
    assert prefix.batches == 1


def test_dropout_below_the_adapters_is_never_reused(tiny_model, examples, count):
    """Training draws from it, judging does not: only the two judged batches are kept."""
    base = tiny_model(attention_dropout=0.3)
    prefix = FrozenPrefix()
    for r in (2, 3):
        wanted = probe(base, moe_lora([2], r), examples, None)
        calls = count(base)
        assert_same(probe(base, moe_lora([2], r), examples, prefix), wanted)
        assert prefix.batches == 2 and calls[0] == (12 if r == 2 else 10)


def test_what_judging_kept_does_not_serve_a_training_with_dropout(tiny_model):
    model = adapted(tiny_model(attention_dropout=0.3))
    torch.manual_seed(1)
    wanted = last_hidden(model.train())
    prefix = FrozenPrefix()
    with prefix.reused(model):
        last_hidden(model.eval())
        torch.manual_seed(1)
        assert torch.equal(last_hidden(model.train()), wanted)
    assert prefix.batches == 1


def test_hidden_states_that_need_a_gradient_are_never_reused(tiny_model):
    base = tiny_model()
    model = adapted(base)
    base.enable_input_require_grads()
    prefix = FrozenPrefix()
    with prefix.reused(model):
        last_hidden(model)
    assert prefix.batches == 0


# --- where the lowest adapted layer is --------------------------------------------------------------


def test_the_lowest_adapted_layer(architecture, tiny_model):
    base = tiny_model(architecture).requires_grad_(False)
    assert lowest_adapted_layer(base) == 0
    for layers in ([2], [1, 2], [0, 2]):
        model = adapted(base, layers)
        assert lowest_adapted_layer(model) == min(layers)
        assert lowest_adapted_layer(model.requires_grad_(False)) == min(layers)
        model.unload()
    model = adapted(base, [2])
    base.model.layers[1].input_layernorm.weight.requires_grad_(True)
    assert lowest_adapted_layer(model) == 1
    base.model.embed_tokens.weight.requires_grad_(True)
    assert lowest_adapted_layer(model) == 0


def test_an_adapter_outside_the_layers_leaves_nothing_to_reuse(tiny_model):
    config = LoraConfig(r=2, target_modules=["embed_tokens", "layers.2.mlp.up_proj"])
    assert lowest_adapted_layer(get_peft_model(tiny_model(), config)) == 0


def test_with_every_layer_or_weight_trained_nothing_is_kept(tiny_model):
    for model in (tiny_model().requires_grad_(True), adapted(tiny_model(), [0, 1, 2])):
        prefix = FrozenPrefix()
        with prefix.reused(model):
            last_hidden(model)
        assert prefix.batches == 0


# --- bounds and leaving -----------------------------------------------------------------------------


def test_a_full_store_keeps_what_it_has_and_stays_exact(tiny_model, examples):
    base = tiny_model()
    prefix = FrozenPrefix(max_bytes=2 * 16 * 16 * 4)  # one batch of the longest two rows
    for r in (2, 3):
        wanted = probe(base, moe_lora([2], r), examples, None)
        assert_same(probe(base, moe_lora([2], r), examples, prefix), wanted)
    assert prefix.batches >= 1
    assert prefix.bytes == sum(kept.nbytes for kept in prefix._kept.values()) <= prefix.max_bytes


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_as_it_was_afterwards(error, tiny_model):
    model = adapted(tiny_model()).eval()
    layers = decoder_layers(model)
    own = layers[1].forward
    layers[1].forward = own  # an instance's own, as accelerate's wrappers are
    before = [dict(module.__dict__) for module in model.modules()]
    hooks = [list(module._forward_pre_hooks) for module in model.modules()]
    try:
        with FrozenPrefix().reused(model):
            last_hidden(model)
            assert layers[0].forward is not before
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error
    assert [dict(module.__dict__) for module in model.modules()] == before
    assert [list(module._forward_pre_hooks) for module in model.modules()] == hooks


def test_a_pass_that_fails_leaves_nothing_wrong_behind(tiny_model):
    model = adapted(tiny_model()).eval()
    wanted = last_hidden(model, IDS.flip(0))
    layers = decoder_layers(model)
    prefix = FrozenPrefix()
    with prefix.reused(model):
        last_hidden(model)
        broken = layers[0].get_submodule("mlp").register_forward_pre_hook(lambda module, args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            last_hidden(model, IDS.flip(0))
        last_hidden(model)  # known: layer 0 is not run
        broken.remove()
        assert torch.equal(last_hidden(model, IDS.flip(0)), wanted)


def test_a_pass_that_goes_around_the_decoders_hooks_runs_in_full(tiny_model):
    base = tiny_model()
    adapted(base).eval()
    by_the_door, around = last_hidden(base), base.model.forward(input_ids=IDS.flip(0), use_cache=False)[0]
    prefix = FrozenPrefix()
    with prefix.reused(base):
        for _ in range(2):
            assert torch.equal(last_hidden(base), by_the_door)
            assert torch.equal(base.model.forward(input_ids=IDS.flip(0), use_cache=False)[0], around)
    assert prefix.batches == 1
