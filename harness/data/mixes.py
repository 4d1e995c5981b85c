"""Split a mix's rows into disjoint parts, and draw seeded samples."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any

from floe_bench.harness.contracts.rows import Row, RowSource
from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import digest
from floe_bench.harness.spec.settings import DataSettings, Settings

SHORTEST_PASSAGE = 400
"""Characters of a passage of plain text."""


@dataclass(frozen=True)
class MixData:
    """The splits of a mix. `counts` holds how many rows were read, and how many were dropped for each reason."""

    train: list[Row]
    validation: list[Row]
    counts: dict[str, int]

    @cached_property
    def digest(self) -> str:
        """Return a digest of the content of both splits."""
        return digest([[vars(row) for row in part] for part in (self.train, self.validation)])


def _hash_fraction(text: str) -> float:
    """Return a number in [0, 1) that depends on the text's content alone, so it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _side_text(row: Row) -> str:
    """Return the text that decides a row's side: its prompt, or its completion where the prompt is empty.

    Else all rows without a prompt would lie on one side.
    """
    prompt = row.prompt or ""
    return prompt if prompt.strip() else row.completion


def _is_validation(text: str, fraction: float) -> bool:
    """Assign a text to validation by its content alone: a prompt is on the same side in every mix that holds it."""
    return _hash_fraction("split:" + _normalised(text)) < fraction


def split_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide which rows a mix has and on which side each lies."""
    if settings.data.source == "teacher":  # its rows depend on the model and on how training encodes them
        return settings.model_dump(include={"data", "model", "adapter"})
    return settings.data.model_dump(exclude={"pilot_fraction", "calibration_rows", "max_length"})


def split_mix(name: str, source: RowSource, settings: DataSettings) -> MixData:
    """Read a mix and split it by content hash. A cap is spread evenly over the mix's domains.

    Raises:
        UsageError: there are too few rows.
    """
    rows, counts = _different_rows(name, source)
    train: list[Row] = []
    validation: list[Row] = []
    for row in rows:
        (validation if _is_validation(_side_text(row), settings.validation_fraction) else train).append(row)
    counts |= {"train_available": len(train), "validation_available": len(validation)}
    found = _found(counts, f"{len(train)} are for training and {len(validation)} for validation")
    return MixData(
        _capped(train, settings.train_rows, f"mix '{name}' has {{}} training rows ({found}), but data.train_rows"),
        _capped(
            validation,
            settings.validation_rows,
            f"mix '{name}' has {{}} validation rows ({found}), but data.validation_rows",
        ),
        counts,
    )


def split_text(source: RowSource, settings: DataSettings) -> tuple[list[Row], list[Row]]:
    """Return plain text for Taylor importance, and other passages for measuring forgetting.

    Raises:
        UsageError: a side has fewer passages than `pretrain_rows`.
    """
    rows, counts = _different_rows("pretrain", source)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[_is_validation(row.completion, 0.5)].append(row)
    found = _found(counts, f"{len(sides[0])} and {len(sides[1])} lie on the two sides")
    message = f"the pre-training text has {{}} passages on one side of its split ({found}), but data.pretrain_rows"
    calibration, held_out = (_capped(side, settings.pretrain_rows, message) for side in sides)
    return calibration, held_out


def _different_rows(name: str, source: RowSource) -> tuple[list[Row], dict[str, int]]:
    """Return a mix's rows without what is dropped, and how many were read and dropped for each reason.

    Dropped are empty completions, passages of plain text of fewer than SHORTEST_PASSAGE characters (a heading says
    little of a model; a teacher's have the length that was asked for), and repeats, also those that differ in case or
    spaces. Empty prompts are kept and counted.
    """
    shortest = 1 if source.kind == "teacher" else SHORTEST_PASSAGE
    kept: dict[tuple[str, str], Row] = {}
    counts = {"read": 0, "empty_completion": 0, "too_short": 0, "empty_prompt": 0, "repeated": 0}
    for row in source.mix(name):
        counts["read"] += 1
        content = (_normalised(row.prompt or ""), _normalised(row.completion))
        if not content[1]:
            counts["empty_completion"] += 1
            continue
        if row.prompt is None and len(row.completion.strip()) < shortest:
            counts["too_short"] += 1
            continue
        counts["empty_prompt"] += row.prompt is not None and not content[0]
        counts["repeated"] += content in kept
        # Keep the smallest of several, so that the order of rows does not matter.
        kept[content] = min(row, kept.get(content, row), key=lambda row: (row.prompt or "", row.completion))
    return list(kept.values()), counts


_DROPPED = {
    "empty_completion": "have no text to learn",
    "too_short": f"are passages of fewer than {SHORTEST_PASSAGE} characters",
    "repeated": "repeat others",
}


def _found(counts: dict[str, int], sides: str) -> str:
    """Say what became of the rows that were read, for a message that there are too few."""
    dropped = [f"{counts[reason]} {text}" for reason, text in _DROPPED.items() if counts[reason]]
    return f"of {counts['read']} rows read, {', '.join([*dropped, sides])}"


def sample(rows: Sequence[Row], n: int, seed: int, purpose: str = "sample") -> list[Row]:
    """Draw `n` rows without replacement (all, if there are fewer). Seed, purpose and content decide which."""
    return sorted(rows, key=lambda row: _content_order(row, f"{purpose} {seed}"))[:n]


def pilot_sample(rows: Sequence[Row], settings: DataSettings, seed: int) -> list[Row]:
    """Draw the pilot's share ρ of the training rows (FLoE, arXiv 2506.00495)."""
    return sample(rows, math.ceil(settings.pilot_fraction * len(rows) - 1e-9), seed, "pilot")


def _content_order(row: Row, salt: str = "order") -> float:
    """Return a row's place in the order that `salt` and its content decide, in [0, 1)."""
    return _hash_fraction(f"{salt}\0{row.prompt or ''}\0{row.completion}")


def _capped(rows: list[Row], n: int | None, message: str) -> list[Row]:
    """Return `n` rows (None: all) in content order, taking from the domains in turn.

    Raises:
        UsageError: there are fewer than `n` rows, or none. `message` takes the number of rows.
    """
    by_domain: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=_content_order):
        by_domain[row.domain].append(row)
    in_turn = [row for row in chain.from_iterable(zip_longest(*by_domain.values())) if row is not None]
    if len(in_turn) < (n or 1):
        raise UsageError(f"{message.format(len(in_turn))} asks for {n or 'at least 1'}: lower it or give more data")
    return in_turn[:n]
