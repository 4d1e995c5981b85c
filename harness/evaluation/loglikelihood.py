"""Log-likelihoods of continuations. Tokens that several requests share are read once.

The results are those of stock lm-eval (EleutherAI lm-evaluation-harness 0.4.13, `HFLM._loglikelihood_tokens`).
They take less work:

- The longest prefix that all contexts share goes through the model once.
- The continuations of one context form a token tree (`evaluation.token_tree`), so the context is read once.
- Many trees are packed into one sequence without padding. Only attention separates them.
- Logits are computed only where a continuation's token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from floe_bench.harness.evaluation.token_tree import (
    KeysAndValues,
    Packed,
    Tokens,
    Tree,
    common_prefix_length,
    rows_of,
    tree_attention,
)

ARCHITECTURES = (
    "cohere", "cohere2", "gemma2", "gemma3_text", "llama", "ministral", "mistral", "mixtral", "olmo2", "phi", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "smollm3",
)  # fmt: skip
"""Not every family: Qwen2-MoE tells its mask of the window and not the attention, BLOOM's attention has biases."""
ADAPTERS = ("LORA", "MOE_LORA")
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

TOKENS_PER_SEQUENCE = 128
"""One forward pass reads batch_size x this: 512 tokens at batch size 4, the fastest of 256 to 2,048 on a CPU."""

WORTH_READING_APART = 128
"""Least number of tokens that reading a shared prefix separately must save. Less does not pay for its own passes."""

Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of the continuation to score."""


class Answers(NamedTuple):
    """One (log-likelihood in nats, whether greedy decoding gives the continuation) per request, in order.

    tokens: how many tokens went through the model.
    """

    loglikelihoods: list[tuple[float, bool]]
    tokens: int


def supports(model: Any) -> bool:
    """Whether `loglikelihoods` is tested for this kind of model.

    True for ARCHITECTURES, bare or inside a PeftModel whose adapters treat each token by itself. (These are
    ADAPTERS, without LoRA's activated form.) False where rotary frequencies depend on the sequence's length.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    ropes = [rope, *(of_layers for of_layers in rope.values() if isinstance(of_layers, dict))]
    adapters = getattr(model, "peft_config", {}).values()
    return (
        model.config.model_type in ARCHITECTURES
        and not any(each.get("rope_type") in LENGTH_DEPENDENT_ROPE for each in ropes)
        and all(adapter.peft_type in ADAPTERS for adapter in adapters)
        and not any(getattr(adapter, "alora_invocation_tokens", None) for adapter in adapters)
    )


def loglikelihoods(model: Any, groups: Sequence[Sequence[Request]], max_length: int, batch_size: int) -> Answers:
    """Compute log p(continuation | context) of every request, in nats from a float32 log-softmax.

    The model reads the last `max_length` tokens of context + continuation[:-1], in positions from 0, as lm-eval
    does. Sequences that lose tokens share no prefix. The model reads in evaluation mode; its mode and attention
    implementation are restored.

    Args:
        model: one that `supports` accepts.
        groups: requests by group. The contexts of a group share their beginnings, as MMLU's of one subject share
            header and exemplars.
        max_length: most tokens that the model reads of a sequence.
        batch_size: one forward pass reads about batch_size x TOKENS_PER_SEQUENCE tokens. They come from one group
            with a shared prefix, or from all groups without one.

    Returns:
        the answers in the order of the requests, group after group.

    Raises:
        ValueError: an empty context or continuation, a continuation of more than `max_length` tokens, or a
            `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    sharing, alone = _by_prefix(groups, max_length)
    scores: dict[int, tuple[float, bool]] = {}
    tokens = 0
    with _evaluating(model), torch.no_grad():
        for prefix, contexts in [*sharing, ((), alone)]:
            if not contexts:
                continue
            keys_and_values = _read_prefix(model, prefix)
            tokens += len(prefix)
            trees = [Tree(context[len(prefix) :], members) for context, members in contexts]
            with tree_attention(model.config):
                for batch in _batches(trees, batch_size * TOKENS_PER_SEQUENCE):
                    packed = Packed(batch, len(prefix), keys_and_values, model)
                    scores |= _score(model, packed)
                    tokens += packed.input_ids.shape[1]
    return Answers([scores[i] for i in range(sum(map(len, groups)))], tokens)


_Contexts = list[tuple[Tokens, list[tuple[int, Tokens]]]]
"""Contexts as the model reads them, each with the (request index, continuation) pairs that follow it."""


def _by_prefix(
    groups: Sequence[Sequence[Request]], max_length: int
) -> tuple[list[tuple[Tokens, _Contexts]], _Contexts]:
    """Return the prefixes worth a pass of their own with their contexts, and the contexts that share none."""
    sharing: list[tuple[Tokens, _Contexts]] = []
    alone: _Contexts = []
    first = 0
    for group in groups:
        whole, cut = _by_context(group, first, max_length)
        first += len(group)
        prefix = _common_prefix([context[:-1] for context in whole]) if whole else ()
        if len(prefix) * (len(whole) - 1) < WORTH_READING_APART:
            alone += whole.items()
        else:
            sharing.append((prefix, list(whole.items())))
        alone += cut.items()
    return sharing, alone


_ByContext = dict[Tokens, list[tuple[int, Tokens]]]


def _by_context(requests: Sequence[Request], first: int, max_length: int) -> tuple[_ByContext, _ByContext]:
    """Group requests, numbered from `first`, by context: whole contexts, and those that lost tokens on the left."""
    whole: _ByContext = {}
    cut: _ByContext = {}
    for i, (context, continuation) in enumerate(requests, first):
        if not context or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"request {i}: expected at least one context token and 1 to {max_length} continuation tokens, "
                f"got {len(context)} and {len(continuation)}"
            )
        room = max_length + 1 - len(continuation)
        group = cut if len(context) > room else whole
        group.setdefault(tuple(context[-room:]), []).append((i, tuple(continuation)))
    return whole, cut


def _common_prefix(sequences: Sequence[Tokens]) -> Tokens:
    # All sequences share what the lexicographically first and last share.
    first, last = min(sequences), max(sequences)
    return first[: common_prefix_length(first, last)]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put the model in evaluation mode. Restore its mode on exit."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _read_prefix(model: Any, prefix: Tokens) -> KeysAndValues:
    """Return the prefix's keys and values from the model's own attention; nothing for an empty prefix."""
    if not prefix:
        return []
    input_ids = torch.tensor([prefix], device=model.device)
    # Without a config the cache keeps all keys of sliding-window layers. The mask hides the old ones.
    cache = DynamicCache()
    no_logits = torch.zeros_like(input_ids, dtype=torch.bool)
    model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=no_logits)
    layers: Any = cache.layers
    return [(rows_of(layer.keys), rows_of(layer.values)) for layer in layers]


def _batches(trees: list[Tree], max_tokens: int) -> Iterator[list[Tree]]:
    """Yield the trees, longest first, in batches of up to `max_tokens` tokens. A larger tree is its own batch."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=len, reverse=True):
        if batch and sum(map(len, batch)) + len(tree) > max_tokens:
            yield batch
            batch = []
        batch.append(tree)
    yield batch


def _score(model: Any, packed: Packed) -> dict[int, tuple[float, bool]]:
    """Return request -> (log-likelihood, is greedy) for all predictions of `packed`."""
    pairs = [pair for pairs in packed.predicted.values() for pair in pairs]
    places, tokens = torch.tensor(pairs, device=model.device).T
    keep = torch.zeros_like(packed.input_ids, dtype=torch.bool)
    keep[0, places] = True
    rows = (keep[0].cumsum(0) - 1)[places]
    # A mask of two dimensions gives logits (rows, vocabulary), from contiguous hidden states.
    logits = model(
        packed.input_ids,
        position_ids=packed.position_ids,
        use_cache=False,
        logits_to_keep=keep,
        packed=packed,
    ).logits
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    greedy = logprobs.argmax(-1)[rows] == tokens
    chosen = iter(zip(logprobs[rows, tokens].tolist(), greedy.tolist(), strict=True))
    scores = {}
    for request, pairs in packed.predicted.items():
        values, matches = zip(*(next(chosen) for _ in pairs), strict=True)
        scores[request] = (sum(values), all(matches))
    return scores
