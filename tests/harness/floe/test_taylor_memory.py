"""What Taylor scoring and the gradient norm hold and recompute: live tensors and calls, counted."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from floe_bench.harness.floe.importance import gradient_norm, taylor

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

L, VOCABULARY, FEED_FORWARD = 6, 32, 50


@pytest.fixture
def model(tiny_model):
    return tiny_model(num_hidden_layers=L, hidden_size=40, intermediate_size=FEED_FORWARD)


def batch(rows, length):
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


class LiveTensors(TorchDispatchMode):
    """The most bytes at any time in tensors of the given shapes, of those made within."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes, self.live, self.peak = {torch.Size(shape) for shape in shapes}, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.shape in self.shapes:
                storage = x.untyped_storage()
                if storage.data_ptr() not in before:  # neither a view nor an in-place result
                    self.live[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: value for key, value in self.live.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


@pytest.mark.parametrize("scorer", [taylor, gradient_norm])
@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1)])
def test_no_two_layers_gradients_live_at_once(model, scorer, sizes):
    layer = [p for p in model.model.layers[0].parameters() if p.dim() == 2]
    bytes_of_layer = sum(p.numel() * p.element_size() for p in layer)
    shapes = {shape for p in layer for shape in (p.shape, p.shape[::-1])}
    batches = [batch(rows, 7) for rows in sizes]
    with LiveTensors(*shapes) as ours:
        scorer(model, batches)
    # The sum over batches, and what the batch in hand adds to it.
    assert bytes_of_layer <= ours.peak <= (1 if len(sizes) == 1 else 2) * bytes_of_layer
    with LiveTensors(*shapes) as whole_model:
        model.requires_grad_(True)(**batches[0]).loss.backward()
    assert whole_model.peak >= L * bytes_of_layer  # the count sees gradients in .grad


def test_several_batches_keep_no_layers_activations(model):
    """SiLU and the product with it make feed-forward activations: two tensors a layer, in one layer at a time."""
    shape = (3, 7, FEED_FORWARD)
    size = 4 * torch.Size(shape).numel()
    with LiveTensors(shape) as several:
        taylor(model, [batch(3, 7), batch(3, 7)])
    assert several.peak <= 2 * 2 * size  # and as many gradients
    with LiveTensors(shape) as single:
        taylor(model, [batch(3, 7)])
    assert single.peak >= L * 2 * size  # the count sees what all layers keep


def test_one_batchs_logits_live_at_a_time(model):
    shape = (3 * 6, VOCABULARY)
    size = 4 * torch.Size(shape).numel()
    with LiveTensors(shape) as several:
        taylor(model, [batch(3, 7)] * 8)
    assert size <= several.peak <= 4 * size  # logits, their log-softmax and the gradients of both


@pytest.mark.parametrize("scorer", [taylor, gradient_norm])
def test_only_several_batches_recompute_layers(model, scorer):
    """Of a layer its products but the last; never the last layer, whose backward follows at once."""
    calls = []
    for layer in model.model.layers:
        for name in ("gate_proj", "down_proj"):
            getattr(layer.mlp, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    scorer(model, [batch(5, 7)])
    assert (calls.count("gate_proj"), calls.count("down_proj")) == (L, L)
    calls.clear()
    scorer(model, [batch(2, 7), batch(3, 9)])
    assert (calls.count("gate_proj"), calls.count("down_proj")) == (2 * (2 * L - 1), 2 * L)
