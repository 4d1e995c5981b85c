"""Log-likelihoods of continuations, reading every token that several of them share once.

What stock lm-eval computes (EleutherAI lm-evaluation-harness 0.4.13, `HFLM._loglikelihood_tokens`) with less work:

- The longest prefix that all contexts share goes through the model once; its keys and values are kept
  (as in RadixAttention, arXiv 2312.07104).
- The continuations of one context form a token tree under a tree attention mask (SpecInfer, arXiv 2305.09781):
  the context is read once for all of them.
- Many trees are packed into one sequence without padding; only attention sees them apart.
- Logits are taken where a continuation's token is predicted, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ARCHITECTURES = ("llama", "mistral", "gemma2", "qwen2")
ADAPTERS = ("LORA", "MOE_LORA")
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

ATTENTION = "token_tree"
"""Name under which transformers knows the attention function while it is in use.

It must have no entry in transformers' ALL_MASK_ATTENTION_FUNCTIONS: then no mask of transformers' own is built.
"""

TOKENS_PER_SEQUENCE = 128
"""Tokens of one forward pass = batch_size x this: 512 at batch size 4, the fastest of 256 to 2,048 on a CPU."""

Tokens = tuple[int, ...]
Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of the continuation to be scored."""


class Answers(NamedTuple):
    """One (log-likelihood in nats, whether greedy decoding gives the continuation) per request, in order.

    tokens: how many tokens went through the model.
    """

    loglikelihoods: list[tuple[float, bool]]
    tokens: int


def supports(model: Any) -> bool:
    """Whether `loglikelihoods` is tested for this kind of model.

    True for ARCHITECTURES, bare or inside a PeftModel whose adapters act on each token by itself (ADAPTERS,
    but not LoRA's activated form). False where the rotary frequencies depend on the sequence's length.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    adapters = getattr(model, "peft_config", {}).values()
    return (
        model.config.model_type in ARCHITECTURES
        and rope.get("rope_type") not in LENGTH_DEPENDENT_ROPE
        and all(adapter.peft_type in ADAPTERS for adapter in adapters)
        and not any(getattr(adapter, "alora_invocation_tokens", None) for adapter in adapters)
    )


def loglikelihoods(model: Any, requests: Sequence[Request], max_length: int, batch_size: int) -> Answers:
    """log p(continuation | context) of every request, summed in nats from a float32 log-softmax.

    `model` is one that `supports` accepts. Requests that share a prefix belong into one call: MMLU's of one
    subject share header and exemplars. The model reads the last `max_length` tokens of context +
    continuation[:-1], in positions from 0, as lm-eval does; sequences that lose tokens share no prefix.
    One forward pass reads about batch_size x TOKENS_PER_SEQUENCE tokens.

    The model is in evaluation mode while it reads; its mode and attention implementation are restored.

    Raises ValueError on an empty context or continuation, or a continuation of more than `max_length` tokens.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    whole, cut = _by_context(requests, max_length)
    scores: dict[int, tuple[float, bool]] = {}
    tokens = 0
    with _evaluating(model), torch.no_grad():
        prefix = _common_prefix([context[:-1] for context in whole]) if len(whole) > 1 else ()
        for groups, shared in ((whole, prefix), (cut, ())):
            if not groups:
                continue
            keys_and_values = _read_prefix(model, shared)
            tokens += len(shared)
            trees = [_Tree(context[len(shared) :], members) for context, members in groups.items()]
            with _tree_attention(model.config):
                for batch in _batches(trees, batch_size * TOKENS_PER_SEQUENCE):
                    packed = _Packed(batch, len(shared), keys_and_values, model)
                    scores |= _score(model, packed)
                    tokens += packed.input_ids.shape[1]
    return Answers([scores[i] for i in range(len(requests))], tokens)


_Groups = dict[Tokens, list[tuple[int, Tokens]]]
"""Context as the model reads it -> (index of the request, continuation) of those that have it."""


def _by_context(requests: Sequence[Request], max_length: int) -> tuple[_Groups, _Groups]:
    """Requests whose context is whole, and those whose context lost tokens on the left."""
    whole: _Groups = {}
    cut: _Groups = {}
    for i, (context, continuation) in enumerate(requests):
        if not context or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"request {i}: expected at least one context token and 1 to {max_length} continuation tokens, "
                f"got {len(context)} and {len(continuation)}"
            )
        room = max_length + 1 - len(continuation)
        groups = cut if len(context) > room else whole
        groups.setdefault(tuple(context[-room:]), []).append((i, tuple(continuation)))
    return whole, cut


def _common_prefix(sequences: Sequence[Tokens]) -> Tokens:
    # What the first and the last in lexicographic order share, all between them share.
    first, last = min(sequences), max(sequences)
    return first[: _n_common(first, last)]


def _n_common(a: Tokens, b: Tokens) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _tree_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


_KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, the prefix's keys (after the rotary embedding) and values, shape (length · key-value heads, head_dim)."""


def _read_prefix(model: Any, prefix: Tokens) -> _KeysAndValues:
    """Through the model's own attention; nothing where there is no prefix."""
    if not prefix:
        return []
    input_ids = torch.tensor([prefix], device=model.device)
    # Without a configuration the cache keeps every key of sliding-window layers too; the mask hides the old ones.
    cache = DynamicCache()
    nowhere = torch.zeros_like(input_ids, dtype=torch.bool)
    model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=nowhere)
    layers: Any = cache.layers
    return [(_rows(layer.keys), _rows(layer.values)) for layer in layers]


def _rows(states: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, head_dim) -> (tokens · heads, head_dim)."""
    return states.transpose(1, 2).reshape(-1, states.shape[-1])


class _Tree:
    """A context and its continuations without their last tokens, as a tree of tokens in preorder.

    depth: of each node, 0 at the root. end: the node after each one's subtree, so that node a is b or one of
    b's ancestors where a <= b < end[a]. predicted: request -> (node, token that is predicted there).
    """

    def __init__(self, context: Tokens, members: Sequence[tuple[int, Tokens]]) -> None:
        self.tokens: list[int] = []
        self.depth: list[int] = []
        self.end: list[int] = []
        self.predicted: dict[int, list[tuple[int, int]]] = {}
        path: list[int] = []
        before: Tokens = ()
        # In lexicographic order each sequence continues the one before, or leaves its branch for good.
        for request, continuation in sorted(members, key=lambda member: member[1]):
            sequence = context + continuation[:-1]
            self._leave(path, _n_common(before, sequence))
            for token in sequence[len(path) :]:
                path.append(len(self.tokens))
                self.depth.append(len(path) - 1)
                self.tokens.append(token)
                self.end.append(0)
            self.predicted[request] = list(zip(path[-len(continuation) :], continuation, strict=True))
            before = sequence
        self._leave(path, 0)

    def _leave(self, path: list[int], depth: int) -> None:
        for node in path[depth:]:
            self.end[node] = len(self.tokens)
        del path[depth:]

    def __len__(self) -> int:
        return len(self.tokens)


def _batches(trees: list[_Tree], most: int) -> Iterator[list[_Tree]]:
    """The trees, longest first, in batches of at most `most` tokens, or of one tree."""
    batch: list[_Tree] = []
    for tree in sorted(trees, key=len, reverse=True):
        if batch and sum(map(len, batch)) + len(tree) > most:
            yield batch
            batch = []
        batch.append(tree)
    yield batch


class _Packed:
    """B trees one after another in one sequence of T tokens, and how attention takes them apart.

    Attention works on a grid of B x n nodes, n the longest tree's; the cells after a shorter tree's end repeat its
    root and are never read. Keys and values are those of the P tokens of the prefix, then the tree's own.
    Query heads that share a key-value head stand one after another as further queries of that head, so that
    keys and values are never repeated.
    """

    def __init__(self, trees: list[_Tree], n_prefix: int, prefix: _KeysAndValues, model: Any) -> None:
        n = len(trees[0])
        starts = list(accumulate(map(len, trees), initial=0))
        node = torch.tensor([[i if i < len(tree) else 0 for i in range(n)] for tree in trees])
        place = node + torch.tensor(starts[:-1])[:, None]

        def grid(name: str) -> torch.Tensor:
            return torch.tensor([getattr(tree, name) + [0] * (n - len(tree)) for tree in trees])

        self.prefix = prefix
        self._allowed = (torch.arange(n) <= node[:, :, None]) & (node[:, :, None] < grid("end")[:, None])
        self._positions = grid("depth") + n_prefix
        self._n_prefix = n_prefix
        self._masks: dict[int | None, torch.Tensor] = {}
        self._index_rows(place, torch.cat([torch.arange(len(tree)) + b * n for b, tree in enumerate(trees)]), model)

        device = model.device
        self.input_ids = torch.tensor([[token for tree in trees for token in tree.tokens]], device=device)
        self.position_ids = torch.tensor([[n_prefix + depth for tree in trees for depth in tree.depth]], device=device)
        self.predicted = {
            request: [(start + node, token) for node, token in pairs]
            for start, tree in zip(starts, trees, strict=False)
            for request, pairs in tree.predicted.items()
        }

    def _index_rows(self, place: torch.Tensor, cell: torch.Tensor, model: Any) -> None:
        """Rows of queries, keys and values in the grid, and of the grid's output in the packed sequence.

        place: packed place of each cell, shape (B, n). cell: cell of each packed token, shape (T,).
        """
        batch, n = place.shape
        heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
        kv_head = torch.arange(kv_heads)[:, None]
        copy = torch.arange(heads // kv_heads)[:, None]
        queries = place[:, None, None] * heads + kv_head[..., None] * len(copy) + copy
        n_prefix = self._n_prefix
        keys = torch.cat([torch.arange(n_prefix).expand(batch, -1), n_prefix + place], 1)[:, None] * kv_heads + kv_head
        # The output's rows are ordered by tree, head within its key-value head, node, key-value head.
        out = ((cell // n * len(copy) + copy) * n + cell % n)[:, None] * kv_heads + kv_head
        self.query_rows = queries.flatten().to(model.device)
        self.key_rows = keys.flatten().to(model.device)
        self.output_rows = out.permute(2, 1, 0).flatten().to(model.device)
        self.query_shape = (batch, kv_heads, len(copy) * n, -1)
        self.key_shape = (batch, kv_heads, n_prefix + n, -1)

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """0 where a node may look, -inf elsewhere: at the prefix, its ancestors and itself, inside the window."""
        if window not in self._masks:
            batch, n = self._positions.shape
            allowed = torch.cat([torch.ones(batch, n, self._n_prefix, dtype=torch.bool), self._allowed], -1)
            if window is not None:
                keys = torch.cat([torch.arange(self._n_prefix).expand(batch, -1), self._positions], 1)
                allowed &= keys[:, None] > self._positions[..., None] - window
            mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, -torch.inf).to(like.device)
            self._masks[window] = mask.repeat(1, self.query_shape[2] // n, 1)[:, None]
        return self._masks[window]


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    packed: _Packed,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed trees: query (1, heads, T, head_dim) -> output (1, T, heads, head_dim).

    Where the scores are soft-capped, the formula is that of transformers' Gemma 2
    (`eager_attention_forward`), which torch's fused attention has not.
    """
    keys, values = _rows(key), _rows(value)
    if packed.prefix:
        prefix_keys, prefix_values = packed.prefix[module.layer_idx]
        keys, values = torch.cat([prefix_keys, keys]), torch.cat([prefix_values, values])
    query = _rows(query)[packed.query_rows].view(packed.query_shape)
    key, value = keys[packed.key_rows].view(packed.key_shape), values[packed.key_rows].view(packed.key_shape)
    mask = packed.mask(sliding_window, query)
    if softcap is None:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap + mask
        output = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    output = output.transpose(1, 2).reshape(-1, output.shape[-1])[packed.output_rows]
    return output.view(1, packed.input_ids.shape[1], -1, output.shape[-1]), None


def _score(model: Any, packed: _Packed) -> dict[int, tuple[float, bool]]:
    """Request -> (log-likelihood, is greedy) of all that `packed` predicts."""
    pairs = [pair for pairs in packed.predicted.values() for pair in pairs]
    places, tokens = torch.tensor(pairs, device=model.device).T
    keep = torch.zeros_like(packed.input_ids, dtype=torch.bool)
    keep[0, places] = True
    rows = (keep[0].cumsum(0) - 1)[places]
    # A mask of two dimensions gives logits (rows, vocabulary) from contiguous hidden states.
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
