"""Log-likelihoods of every model family, as a run reads them, against one plain forward pass per request."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from floe_bench.harness.evaluation import loglikelihood, multiple_choice
from floe_bench.harness.floe.decoder import LINEAR, decoder_layers
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model.base import byte_tokenizer
from floe_bench.harness.model.shape import text_config

from ..families import FAMILIES, config_of
from .test_loglikelihood import MAX_LENGTH, MODELS, assert_equal, plain, questions, values, with_greedy

NESTED = {"gemma3": "gemma3_text", "mistral3": "mistral"}
"""Families of several inputs, and the family of their text model."""


def made(family: str, adapted: bool) -> Any:
    """A random model; with an adapter of random weights on every linear module of its layers."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(text_config(config_of(family)), dtype=torch.float32)
    if adapted:
        linear = {n.rpartition(".")[2] for n, m in decoder_layers(model).named_modules() if isinstance(m, LINEAR)}
        config = MoeLoraConfig(r=2, num_experts=2, target_modules=linear, init_weights=False)
        model = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    return model.eval()


def as_a_run_reads_it(model, requests, max_length=MAX_LENGTH) -> list[tuple[float, bool]]:
    """Through the shared-prefix tree where the family has it, and through stock lm-eval elsewhere."""
    lm = multiple_choice._language_model(model, byte_tokenizer(), batch_size=3, max_length=max_length, stock=False)
    lm._subjects = ["one subject"] * len(requests)
    return lm._loglikelihood_tokens([(("", str(choice)), context, choice) for context, choice in requests])


@pytest.fixture(autouse=True)
def every_prefix_is_worth_it(monkeypatch):
    monkeypatch.setattr(loglikelihood, "WORTH_READING_APART", 1)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - NESTED))
def test_a_familys_log_likelihoods_are_those_of_the_plain_forward_pass(family):
    bare = None
    for adapted in (False, True):
        model = made(family, adapted)
        requests = with_greedy(model, questions(3, "continuation"))
        expected = plain(model, requests)
        assert {greedy for _, greedy in expected} == {True, False}
        assert_equal(as_a_run_reads_it(model, requests), expected)
        cut = questions(2, "letter")
        assert_equal(as_a_run_reads_it(model, cut, 20), plain(model, cut, 20))
        # Four choices that weigh the same, or an adapter that does nothing, would be equal too.
        assert values(expected).std() > 1
        bare = values(plain(model, cut)) if bare is None else bare
        assert not adapted or (values(plain(model, cut)) - bare).abs().max() > 0.1


def test_every_family_that_is_read_by_the_tree_is_tested():
    tested = (FAMILIES.keys() - NESTED) | {build().config.model_type for build in MODELS.values()}
    assert set(loglikelihood.ARCHITECTURES) <= tested
