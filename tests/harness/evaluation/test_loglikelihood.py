"""Log-likelihoods from shared reading, against stock lm-eval and against one plain forward pass per request."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from floe_bench.harness.evaluation import loglikelihood, token_tree
from floe_bench.harness.evaluation.loglikelihood import loglikelihoods, supports
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model.base import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

VOCABULARY = 259
MAX_LENGTH = 200
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def mistral():
    """Its window is shorter than the header of `questions`, and than every prompt."""
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=7))


def mistral_wide():
    """Its window is longer than the header, and shorter than the prompts."""
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=23))


def qwen2():
    """Layer 0 sees all, layers 1 and 2 a window; it has biases, and one key-value head less per query head."""
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=11, max_window_layers=1))


def gemma2():
    """Soft-capping that bites, scaled embeddings, a head size of its own, alternating windows."""
    config = Gemma2Config(
        **SHAPE,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=9,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    )
    return Gemma2ForCausalLM(config)


MODELS = {build.__name__: build for build in (llama, mistral, mistral_wide, qwen2, gemma2)}
ADAPTERS = {
    "bare": lambda: None,
    "lora": lambda: LoraConfig(
        r=4, lora_alpha=16, lora_dropout=0.5, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    ),
    "moe_lora": lambda: MoeLoraConfig(
        r=2, num_experts=3, target_modules=["gate_proj", "down_proj", "k_proj"], init_weights=False
    ),
}


def made(name, adapter="bare") -> Any:
    torch.manual_seed(3)
    model, config = MODELS[name](), ADAPTERS[adapter]()
    return (model if config is None else get_peft_model(model, config)).eval()


def questions(n, form, header=14, seed=0):
    """Requests of one subject: a header, `n` questions of different lengths, four choices each."""
    draw = random.Random(seed)

    def ids(length):
        return [draw.randrange(256) for _ in range(length)]

    requests = []
    head = ids(header)
    for _ in range(n):
        context = head + ids(draw.randrange(3, 40))
        lengths = [1] * 4 if form == "letter" else [draw.randrange(1, 9) for _ in range(4)]
        requests += [(context, ids(length)) for length in lengths]
    return requests


def plain(model, requests, max_length=MAX_LENGTH):
    """One forward pass per request, without padding, under the model's own attention."""
    answers = []
    for context, continuation in requests:
        ids = (context + continuation)[-(max_length + 1) :]
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0, -len(continuation) :]
        logprobs = torch.log_softmax(logits.float(), -1)
        target = torch.tensor(continuation)
        chosen = logprobs[range(len(continuation)), target].sum().item()
        answers.append((chosen, bool((logprobs.argmax(-1) == target).all())))
    return answers


def stock(model, requests, max_length=MAX_LENGTH, batch_size=4):
    from lm_eval.models import huggingface

    hflm: Any = huggingface.HFLM
    lm = hflm(
        pretrained=model,
        tokenizer=byte_tokenizer(),
        backend="causal",
        batch_size=batch_size,
        max_length=max_length,
        softmax_dtype="float32",
    )
    return lm._loglikelihood_tokens([(("", ""), *request) for request in requests], disable_tqdm=True)


def ours(model, requests, max_length=MAX_LENGTH, batch_size=3):
    return loglikelihoods(model, [requests], max_length, batch_size).loglikelihoods


@pytest.fixture(autouse=True)
def every_prefix_is_worth_it(monkeypatch):
    """Prompts here are short; without this no prefix would be read apart."""
    monkeypatch.setattr(loglikelihood, "WORTH_READING_APART", 1)


def values(answers):
    return torch.tensor([value for value, _ in answers])


TOLERANCE = 1e-4
"""Nats. The two sides multiply matrices of other shapes: sums of some 50 nats a choice in float32, whose last bit is
4e-6 there, differ by a few bits per layer; processors with AVX512 have shown 3e-5."""


def assert_equal(answers, expected, tolerance=TOLERANCE):
    assert (values(answers) - values(expected)).abs().max() <= tolerance
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]


def with_greedy(model, requests):
    """Every eighth continuation becomes what the model would say."""
    requests = [(context, list(continuation)) for context, continuation in requests]
    for context, continuation in requests[::8]:
        for i in range(len(continuation)):
            with torch.no_grad():
                continuation[i] = int(model(torch.tensor([context + continuation[:i]])).logits[0, -1].argmax())
    return requests


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_stock_lm_eval_and_the_plain_forward_pass(name, adapter):
    model = made(name, adapter)
    for form in ("letter", "continuation"):
        requests = with_greedy(model, questions(6, form))
        expected = plain(model, requests)
        assert {greedy for _, greedy in expected} == {True, False}
        assert_equal(stock(model, requests), expected)
        for batch_size in (1, 3, 100):
            assert_equal(ours(model, requests, batch_size=batch_size), expected)


def test_an_adapter_with_weights_changes_the_numbers():
    requests = questions(2, "letter")
    bare = values(ours(made("llama"), requests))
    for adapter in ("lora", "moe_lora"):
        assert (values(ours(made("llama", adapter), requests)) - bare).abs().max() > 0.1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["letter", "continuation"])
@pytest.mark.parametrize(("max_length", "cut"), [(60, "none"), (40, "some"), (30, "some"), (12, "all")])
def test_long_prompts_are_cut_on_the_left(name, form, max_length, cut):
    """Inside the header of 14 tokens, or inside the question."""
    model = made(name)
    requests = questions(6, form)
    lost = {max(0, len(context) + len(continuation) - max_length - 1) for context, continuation in requests}
    assert {"none": lost == {0}, "all": 0 not in lost, "some": 0 in lost and any(0 < n < 14 for n in lost)}[cut]
    expected = stock(model, requests, max_length)
    assert_equal(expected, plain(model, requests, max_length))
    assert_equal(ours(model, requests, max_length), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_subject_with_one_question_is_read_in_one_pass(name):
    model = made(name)
    passes = []
    model.register_forward_pre_hook(lambda _, args: passes.append(args[0].numel()))
    requests = questions(1, "continuation")
    answers, tokens = loglikelihoods(model, [requests], MAX_LENGTH, 4)
    assert passes == [tokens]
    assert_equal(answers, plain(model, requests))


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_every_shape(name):
    model = made(name)
    a, b = [7, 8, 9, 10, 11], [7, 8, 9, 30, 31, 32]
    requests = [
        (a, [1, 2, 3]),
        (a, [1, 2]),  # a prefix of the one before
        (a, [1, 4, 3]),
        (a, [5]),
        (b, [6, 6, 6, 6, 6, 6, 6]),
        (a, [1, 2, 3]),  # an equal question
        ([*a, 1], [2, 3]),  # the same sequence, divided elsewhere
        (b[:3], [30, 31, 32]),  # a context that another begins with
        ([200], [1, 2]),  # nothing in common with the others
        ([200], [201]),
    ]
    assert_equal(ours(model, requests), plain(model, requests))
    assert_equal(ours(model, requests[:8]), plain(model, requests[:8]))
    assert_equal(ours(model, requests[-1:]), plain(model, requests[-1:]))


@pytest.mark.parametrize("worth", [1, 60, 10**6])
def test_subjects_keep_their_prefixes_apart_and_pool_what_shares_none(worth, monkeypatch):
    monkeypatch.setattr(loglikelihood, "WORTH_READING_APART", worth)
    model = made("llama")
    subjects = [questions(n, "continuation", header) for n, header in ((4, 30), (1, 9), (3, 2), (1, 40))]
    flat = [request for subject in subjects for request in subject]
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    answers = loglikelihoods(model, subjects, MAX_LENGTH, 100).loglikelihoods
    # A prefix and its questions are two passes; all that is pooled is one.
    assert len(passes) == {1: 5, 60: 3, 10**6: 1}[worth]
    assert_equal(answers, plain(model, flat))


def test_the_order_of_requests_does_not_matter():
    model, requests = made("llama"), questions(5, "continuation")
    mixed = random.Random(1).sample(range(len(requests)), len(requests))
    answers = ours(model, requests)
    assert_equal(ours(model, [requests[i] for i in mixed]), [answers[i] for i in mixed])


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_as_near_to_float32_as_stock_is(name):
    requests = questions(12, "continuation")
    exact = values(plain(made(name), requests))
    model = made(name).to(torch.bfloat16)
    theirs = values(stock(model, requests, batch_size=1)) - exact
    mine = values(ours(model, requests)) - exact
    assert mine.norm() <= 1.5 * theirs.norm()


@pytest.mark.parametrize("form", ["letter", "continuation"])
def test_every_token_is_read_once_and_logits_are_taken_where_one_is_predicted(form):
    model, requests = made("llama"), questions(6, form)
    requests += [(requests[0][0], ending) for ending in ([1, 2, 3], [1, 2, 4, 5], [1, 2])]
    read, projected = [], []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    model.lm_head.register_forward_pre_hook(lambda _, args: projected.append(args[0].shape))
    tokens = loglikelihoods(model, [requests], MAX_LENGTH, 2).tokens
    beginnings = {
        tuple(context + continuation[:i])[:j]
        for context, continuation in requests
        for i in range(len(continuation))
        for j in range(1, len(context) + i + 1)
    }
    assert sum(read) == tokens == len(beginnings)
    predicted = {tuple(context + cont[:i]) for context, cont in requests for i in range(len(cont))}
    assert sum(shape[0] for shape in projected) == len(predicted)
    assert all(len(shape) == 2 for shape in projected)


@pytest.mark.parametrize("name", MODELS)
def test_mode_and_attention_are_restored(name, monkeypatch):
    model = made(name, "lora").train()
    before = model.config._attn_implementation
    assert before == ("eager" if name == "gemma2" else "sdpa")
    requests = questions(3, "letter")
    expected = plain(made(name, "lora"), requests)
    assert_equal(ours(model, requests), expected)  # without the adapter's dropout
    assert model.training and all(module.training for module in model.modules())
    assert model.config._attn_implementation == before

    def broken(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(token_tree, "_attend", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        ours(model, requests)
    assert model.training and model.config._attn_implementation == before
    assert_equal(plain(model.eval(), requests), expected)


def test_no_gradients_are_kept():
    model = made("llama", "lora")
    ours(model, questions(2, "letter"))
    assert all(parameter.grad is None for parameter in model.parameters())
    loss = model(torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()  # the model trains on afterwards
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_supports_what_is_tested_and_nothing_else():
    assert all(supports(made(name, adapter)) for name in MODELS for adapter in ADAPTERS)
    other: Any = SimpleNamespace(config=GPT2Config())
    assert not supports(other)
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    assert not supports(SimpleNamespace(config=LlamaConfig(**SHAPE, rope_parameters=stretched)))
    by_layer = {"full_attention": stretched, "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
    assert supports(SimpleNamespace(config=Gemma3TextConfig(**SHAPE)))
    assert not supports(SimpleNamespace(config=Gemma3TextConfig(**SHAPE, rope_parameters=by_layer)))
    # Virtual tokens shift positions; activated LoRA looks at the whole sequence.
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not supports(get_peft_model(llama(), prompt))
    assert not supports(get_peft_model(llama(), IA3Config(target_modules=["k_proj"], feedforward_modules=[])))
    activated = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[1])
    assert not supports(get_peft_model(llama(), activated))


@pytest.mark.parametrize(
    ("requests", "batch_size", "message"),
    [
        ([([1], [2]), ([], [2])], 1, "request 1: expected at least one context token .* got 0 and 1"),
        ([([1], [])], 1, "request 0: .* 1 to 4 continuation tokens, got 1 and 0"),
        ([([1], [1, 2, 3, 4, 5])], 1, "request 0: .* 1 to 4 continuation tokens, got 1 and 5"),
        ([([1], [2])], 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_requests_are_refused(requests, batch_size, message):
    with pytest.raises(ValueError, match=message):
        loglikelihoods(made("llama"), [requests], 4, batch_size)


def test_nothing_to_read_is_no_work():
    assert loglikelihoods(made("llama"), [], MAX_LENGTH, 1) == ([], 0)
