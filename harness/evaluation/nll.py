"""Negative log-likelihood of completions under a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from floe_bench.harness.data.tokens import Labelled, by_length, collate

if TYPE_CHECKING:
    import pandas as pd


def row_nll(model: Any, examples: Sequence[Labelled], batch_size: int, pad_token_id: int) -> pd.DataFrame:
    """Return one line per example, in order: `nll`, summed over labelled tokens (nats), and their number `tokens`.

    The log-softmax is taken in float32, at labelled positions only.
    """
    import pandas as pd
    import torch

    from floe_bench.harness.floe.labels import at_labels

    nll = [0.0] * len(examples)
    tokens = [0] * len(examples)
    with torch.inference_mode():
        for group in by_length(examples, batch_size):
            batch = collate([examples[i] for i in group], pad_token_id)
            batch = {key: value.to(model.device) for key, value in batch.items()}
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            labelled = at_labels(batch)
            logits = model(**inputs, logits_to_keep=labelled["logits_to_keep"], use_cache=False).logits.float()
            losses = torch.zeros(batch["labels"].shape, device=model.device)
            losses[labelled["logits_to_keep"]] = torch.nn.functional.cross_entropy(
                logits, labelled["shift_labels"], reduction="none"
            )
            counts = labelled["logits_to_keep"].sum(1).tolist()
            for i, loss, count in zip(group, losses.sum(1).tolist(), counts, strict=True):
                nll[i], tokens[i] = loss, count
    return pd.DataFrame({"nll": nll, "tokens": tokens})


def mean_nll(rows: pd.DataFrame) -> float:
    """Return nats per labelled token over all rows of `row_nll`; not finite where the model's outputs are not."""
    return math.fsum(rows["nll"]) / sum(rows["tokens"])
