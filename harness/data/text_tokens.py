"""Encode text as text: words that are spelled like a control token stay words.

A tokenizer reads "</s>" in a row as the token that ends a turn. Here only what a template writes becomes such a token.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from floe_bench.harness.errors import UsageError


class Segment(NamedTuple):
    """A piece of text. `control`: whether a control token's name in it means the token, as in a template."""

    text: str
    control: bool = False


class Encoded(NamedTuple):
    """Hold token ids, and for each the index of the segment in which its characters begin (-1: added in front)."""

    ids: list[int]
    segments: list[int]


class TextTokens:
    """Encode segments of text and of template jointly, so that tokens across their borders are those of the whole.

    The tokenizer's backend is copied, with its control tokens under names that no text holds. Template segments are
    written in these names. Control tokens are the special ones, and those that the chat template writes.

    Raises:
        UsageError: the tokenizer has no backend of the library `tokenizers`.
    """

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json: save it in that form, the only one "
                "in which text can be kept apart from control tokens"
            )
        template = str(tokenizer.chat_template or "")
        control = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (not token.content.isspace() and token.content in template)
        ]
        # Where one name begins another, the longer is meant. (?!) matches nothing.
        longest_first = sorted(filter(None, control), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Drawn anew in each process: whoever writes rows cannot know it. It never shows in the ids.
        nonce = secrets.token_hex(8)
        self._alias = {name: f"\ue000{nonce}{i}\ue001" for i, name in enumerate(longest_first)}
        self._backend = _renamed(backend, self._alias)

    def holds_control(self, text: str) -> bool:
        """Tell whether the text holds the name of a control token."""
        return self._names.search(text) is not None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the tokens of plain text. See `encode_segments`."""
        return self.encode_segments([Segment(text)], add_special_tokens).ids

    def encode_segments(self, segments: Sequence[Segment], add_special_tokens: bool = False) -> Encoded:
        """Return the tokens of the segments, read as one text.

        add_special_tokens: whether to begin as the tokenizer begins a text (BOS). What it adds at the end is left
        out: a text that is continued does not end there.
        """
        written = [self._in_aliases(s.text) if s.control else s.text for s in segments]
        encoding = self._backend.encode("".join(written), add_special_tokens=False)
        ends = list(accumulate(map(len, written)))
        prefix = self._prefix if add_special_tokens else []
        segments_of = [min(bisect_right(ends, start), len(ends) - 1) for start, _ in encoding.offsets]
        return Encoded([*prefix, *encoding.ids], [-1] * len(prefix) + segments_of)

    def _in_aliases(self, text: str) -> str:
        return self._names.sub(lambda found: self._alias[found.group()], text)

    @cached_property
    def _prefix(self) -> list[int]:
        """Return the tokens that the tokenizer puts before every text."""
        text = "a"
        bare = self._backend.encode(text, add_special_tokens=False).ids
        whole = self._backend.encode(text, add_special_tokens=True).ids
        starts = range(len(whole) - len(bare) + 1)
        return whole[: next((i for i in starts if whole[i : i + len(bare)] == bare), 0)]


def _renamed(backend: Any, alias: dict[str, str]) -> Any:
    """Return a copy of a `tokenizers.Tokenizer` whose added tokens and vocabulary have other names, and equal ids."""
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["content"] = alias.get(token["content"], token["content"])
    model = state["model"]
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        model["vocab"] = {alias.get(name, name): i for name, i in vocabulary.items()}
    else:  # a Unigram model: pairs of piece and score, in the order of the ids
        model["vocab"] = [[alias.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = alias.get(model["unk_token"], model["unk_token"])
    copy = Tokenizer.from_str(json.dumps(state))
    copy.no_truncation()
    copy.no_padding()
    return copy
