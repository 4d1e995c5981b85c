"""Find benchmark items that occur in the training rows, by shared word n-grams.

The protocol is GPT-3's (Brown et al., arXiv 2005.14165, appendix C). An item is contaminated if it shares an
n-gram of words with the training text. n = 13 is the largest that GPT-3 uses. Case and punctuation do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from floe_bench.harness.contracts.rows import Row

TEXT_FIELDS = ("question", "choices", "prompt", "completion", "text")
"""The fields of an item that a model reads, in reading order."""

NGRAM = 13
"""Length n of an n-gram, in consecutive words."""

WORD = re.compile(r"[^\W_]+")


def overlapping(items: Sequence[Mapping[str, Any]], rows: Iterable[Row], n: int = NGRAM) -> list[int]:
    """Return the indices of the items that share `n` consecutive words with one training row.

    An item's words are those of its TEXT_FIELDS in order. A row's are those of its prompt and completion.
    An item of fewer than n words counts where a row holds all of them, in order and side by side.
    An item without words never counts.

    The n-grams are compared as 64-bit hashes. For a million n-grams of the items and three million of the rows,
    the chance of a false match is about 2 in 10 million. Memory grows with the items alone; the rows are read once.

    Raises:
        ValueError: n is below 1, or an item has none of TEXT_FIELDS.
    """
    if n < 1:
        raise ValueError(f"n is {n}: expected at least 1 word")
    texts = [_item_words(item) for item in items]
    wanted = {gram for words in texts for gram in _grams(words, min(n, len(words)))}
    # First words of the wanted n-grams, by length: one look-up rejects most positions of a row.
    first_words: dict[int, set[str]] = {}
    for words in texts:
        if words:
            size = min(n, len(words))
            first_words.setdefault(size, set()).update(words[: len(words) - size + 1])
    found: set[int] = set()
    for row in rows:
        words = _words(f"{row.prompt or ''}\n{row.completion}")
        for size, starts in first_words.items():
            found.update(wanted.intersection(_grams(words, size, starts)))
    return [i for i, words in enumerate(texts) if not found.isdisjoint(_grams(words, min(n, len(words))))]


def _grams(words: list[str], size: int, starts: set[str] | None = None) -> Iterator[int]:
    """Yield hashes of the n-grams of `size` words, or only of those that begin with one of `starts`."""
    if size:
        for i in range(len(words) - size + 1):
            if starts is None or words[i] in starts:
                yield hash(tuple(words[i : i + size]))


def _item_words(item: Mapping[str, Any]) -> list[str]:
    """Return the words of the item's TEXT_FIELDS. Raises ValueError where it has none."""
    fields = [item[field] for field in TEXT_FIELDS if field in item]
    if not fields:
        raise ValueError(f"an item has the fields {sorted(item)}: expected one of {', '.join(TEXT_FIELDS)}")
    texts = [field if isinstance(field, str) else "\n".join(field) for field in fields]
    return _words("\n".join(texts))


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
