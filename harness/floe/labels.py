"""Which positions of a batch carry a loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

Batch = Mapping[str, Tensor]

NO_LOSS = -100


def predicts_label(batch: Batch) -> Tensor:
    """(B, T) bool: the positions whose next token carries a label."""
    return F.pad(batch["labels"][:, 1:] != NO_LOSS, (0, 1), value=False)


def at_labels(batch: Batch) -> dict[str, Any]:
    """What has a causal LM's forward compute logits only where the next token carries a label, in row order.

    logits_to_keep (B, T) bool: those positions. shift_labels (n,): the tokens that follow them.
    """
    predicts = predicts_label(batch)
    return {"logits_to_keep": predicts, "shift_labels": batch["labels"][:, 1:][predicts[:, :-1]]}
