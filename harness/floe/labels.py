"""The positions of a batch that carry a loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

Batch = Mapping[str, Tensor]

NO_LOSS = -100


def predicts_label(batch: Batch) -> Tensor:
    """Mark the positions whose next token carries a label: (B, T) bool."""
    return F.pad(batch["labels"][:, 1:] != NO_LOSS, (0, 1), value=False)


def at_labels(batch: Batch) -> dict[str, Any]:
    """Return the arguments that limit a causal LM's logits and loss to labelled positions.

    logits_to_keep (B, T) bool: the positions whose next token carries a label.
    shift_labels (n,): the tokens that follow them, in row order.
    """
    predicts = predicts_label(batch)
    return {"logits_to_keep": predicts, "shift_labels": batch["labels"][:, 1:][predicts[:, :-1]]}
