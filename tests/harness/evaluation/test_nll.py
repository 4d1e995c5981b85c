"""NLL against one sequence at a time, by the definition."""

import math

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from floe_bench.harness.evaluation.nll import mean_nll, row_nll
from floe_bench.harness.floe.labels import at_labels


def by_definition(model, example) -> tuple[float, int]:
    ids = torch.tensor([example["input_ids"]])
    probabilities = model(input_ids=ids).logits[0].double().softmax(-1)
    terms = [
        -probabilities[place - 1, label].log().item()
        for place, label in enumerate(example["labels"])
        if label != -100 and place > 0
    ]
    return sum(terms), len(terms)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_keep_their_order_and_their_nll_in_any_batch(batch_size, tiny, tiny_examples):
    model, _ = tiny
    found = row_nll(model, tiny_examples, batch_size, 258)
    for example, nll, tokens in zip(tiny_examples, found["nll"], found["tokens"], strict=True):
        expected, count = by_definition(model, example)
        assert nll == pytest.approx(expected, rel=1e-5)
        assert tokens == count


def test_the_mean_is_over_tokens_not_rows():
    assert mean_nll(pd.DataFrame({"nll": [1.0, 8.0], "tokens": [1, 2]})) == pytest.approx(3.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_broke_has_no_finite_mean(value):
    assert not math.isfinite(mean_nll(pd.DataFrame({"nll": [1.0, value], "tokens": [1, 2]})))


SHAPE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2} | {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "qwen2"])
def test_logits_at_labels_give_the_loss_and_the_gradients_of_all_logits(model_type):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SHAPE))
    labels = torch.randint(1, 61, (3, 7))
    labels[0, :5], labels[1, 2:], labels[2, 3] = -100, -100, -100
    batch = {"input_ids": torch.randint(1, 61, (3, 7)), "attention_mask": torch.ones(3, 7).long(), "labels": labels}
    whole = model(**batch)
    expected = torch.autograd.grad(whole.loss, list(model.parameters()))
    sparse = model(**batch, **at_labels(batch))
    assert sparse.logits.shape == (int((labels[:, 1:] != -100).sum()), 61)
    torch.testing.assert_close(sparse.loss, whole.loss)
    torch.testing.assert_close(torch.autograd.grad(sparse.loss, list(model.parameters())), expected)
