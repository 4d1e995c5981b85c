"""Make rows of random tokens, for benchmarks whose cost depends on lengths alone."""

from __future__ import annotations

import torch

from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.data.tokens import batches

SHORTEST, LONGEST = 64, 256


def random_batches(rows: int, batch_size: int, vocabulary: int, prompt: float = 0.0) -> list[Batch]:
    """Return right-padded batches of similar length, of rows of 64 to 256 tokens.

    prompt: the share of each row without a label.
    """
    generator = torch.Generator().manual_seed(0)
    examples = []
    for length in torch.randint(SHORTEST, LONGEST + 1, (rows,), generator=generator).tolist():
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        unlabelled = int(prompt * length)
        examples.append({"input_ids": ids, "labels": [-100] * unlabelled + ids[unlabelled:]})
    return batches(examples, batch_size, pad_token_id=0)
