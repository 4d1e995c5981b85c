"""Token trees packed into one sequence, with the attention that separates them.

The continuations of one context form a tree under a tree attention mask (SpecInfer, arXiv 2305.09781).
Several trees may follow one prefix whose keys and values are kept (as in RadixAttention, arXiv 2312.07104).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "token_tree"
"""Name of the attention function in transformers while it is in use.

It must have no entry in ALL_MASK_ATTENTION_FUNCTIONS, so that transformers builds no mask of its own.
"""

Tokens = tuple[int, ...]

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""The prefix's keys (after the rotary embedding) and values per layer, (length · key-value heads, head_dim) each."""


def common_prefix_length(a: Tokens, b: Tokens) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Tree:
    """A context and its continuations without their last tokens, as a tree of tokens in preorder.

    depth: of each node, 0 at the root.
    end: of each node, the first node after its subtree. Node a is b or an ancestor of b where a <= b < end[a].
    predicted: request -> (node, token that is predicted there).
    """

    def __init__(self, context: Tokens, members: Sequence[tuple[int, Tokens]]) -> None:
        self.tokens: list[int] = []
        self.depth: list[int] = []
        self.end: list[int] = []
        self.predicted: dict[int, list[tuple[int, int]]] = {}
        path: list[int] = []
        before: Tokens = ()
        # In lexicographic order, a branch that a sequence leaves is never entered again.
        for request, continuation in sorted(members, key=lambda member: member[1]):
            sequence = context + continuation[:-1]
            self._leave(path, common_prefix_length(before, sequence))
            for token in sequence[len(path) :]:
                path.append(len(self.tokens))
                self.depth.append(len(path) - 1)
                self.tokens.append(token)
                self.end.append(0)
            self.predicted[request] = list(zip(path[-len(continuation) :], continuation, strict=True))
            before = sequence
        self._leave(path, 0)

    def _leave(self, path: list[int], depth: int) -> None:
        """Close the nodes of `path` from `depth` on: their subtrees end here."""
        for node in path[depth:]:
            self.end[node] = len(self.tokens)
        del path[depth:]

    def __len__(self) -> int:
        return len(self.tokens)


class Packed:
    """B trees one after another in one sequence of T tokens, with the indices that attention needs.

    Attention works on a grid of B x n nodes, where n is the longest tree's size. Cells after a shorter tree's end
    repeat its root and are never read. Keys and values are those of the prefix's P tokens, then the tree's own.
    Query heads that share a key-value head become further queries of that head. So keys and values need no copies.
    """

    def __init__(self, trees: list[Tree], n_prefix: int, prefix: KeysAndValues, model: Any) -> None:
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
        """Index the rows of queries, keys and values in the grid, and of the grid's output in the packed sequence.

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
        """Return 0 where a node may look and -inf elsewhere.

        A node sees the prefix, its ancestors and itself, inside the window.
        """
        if window not in self._masks:
            batch, n = self._positions.shape
            allowed = torch.cat([torch.ones(batch, n, self._n_prefix, dtype=torch.bool), self._allowed], -1)
            if window is not None:
                keys = torch.cat([torch.arange(self._n_prefix).expand(batch, -1), self._positions], 1)
                allowed &= keys[:, None] > self._positions[..., None] - window
            mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, -torch.inf).to(like.device)
            self._masks[window] = mask.repeat(1, self.query_shape[2] // n, 1)[:, None]
        return self._masks[window]


def rows_of(states: torch.Tensor) -> torch.Tensor:
    """Reshape (1, heads, tokens, head_dim) to (tokens · heads, head_dim)."""
    return states.transpose(1, 2).reshape(-1, states.shape[-1])


@contextmanager
def tree_attention(config: Any) -> Iterator[None]:
    """Make the model attend over packed trees. Restore its attention implementation on exit."""
    before = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    packed: Packed,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of packed trees: query (1, heads, T, head_dim) -> output (1, T, heads, head_dim).

    Soft-capped scores follow transformers' Gemma 2 (`eager_attention_forward`), because torch's fused attention
    has no soft cap.
    """
    keys, values = rows_of(key), rows_of(value)
    if packed.prefix:
        prefix_keys, prefix_values = packed.prefix[module.layer_idx]
        keys, values = torch.cat([prefix_keys, keys]), torch.cat([prefix_values, values])
    query = rows_of(query)[packed.query_rows].view(packed.query_shape)
    key, value = keys[packed.key_rows].view(packed.key_shape), values[packed.key_rows].view(packed.key_shape)
    mask = packed.mask(sliding_window, query)
    if softcap is None:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap + mask
        output = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    output = output.transpose(1, 2).reshape(-1, output.shape[-1])[packed.output_rows]
    return output.view(1, packed.input_ids.shape[1], -1, output.shape[-1]), None
