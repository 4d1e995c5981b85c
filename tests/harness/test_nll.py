"""NLL against one sequence at a time, by the definition."""

import pandas as pd
import pytest
import torch

from harness.nll import mean_nll, row_nll


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
def test_a_model_that_broke_is_not_a_number(value):
    with pytest.raises(ValueError, match="not finite"):
        mean_nll(pd.DataFrame({"nll": [1.0, value], "tokens": [1, 2]}))
