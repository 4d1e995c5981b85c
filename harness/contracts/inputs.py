"""What a method and an evaluation may ask of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from floe_bench.harness.contracts.plan import OWN_ROWS, Sample
from floe_bench.harness.contracts.rows import Row, RowSource
from floe_bench.harness.contracts.score import Score, Scored
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from peft import PeftConfig

Arrays = dict[str, "np.ndarray"]
Batch = dict[str, Any]
Scorer = Callable[..., Arrays]
"""`scorer(model, batches, **parameters)`: named arrays; batches hold input_ids, attention_mask, labels."""


class MethodInputs(Protocol):
    """All that a method may ask of the engine. Whatever it spends is charged to the method."""

    settings: Settings
    seed: int
    n_layers: int

    def measure(
        self,
        scorer: Scorer,
        on: Literal["task", "pretrain", "nothing"],
        pilot: PeftConfig | None = None,
        sample: Sample = OWN_ROWS,
        **parameters: Any,
    ) -> Arrays:
        """Run `scorer(model, batches, **parameters)` over calibration batches, of plain text, or over none.
        With `pilot`, on the base model with that adapter, trained on the pilot rows; else on the base model.
        Pilot and calibration rows of the task come from `sample`; the parameters are JSON-able.
        A dry run of `floe-bench plan` has no weights: where the arrays are not on disk yet, each is ones(L).
        """
        ...

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        """Validation NLL (nats/token) after a short adaptation; the base model is left as it was.

        Trained on the first share of its rows; judged on training rows that no probe trains on, the same ones always.
        """
        ...

    def trainable(self, peft_config: PeftConfig) -> int:
        """Parameters that training `peft_config` on this model would train."""
        ...

    def planned_trainable(self, method: str) -> int:
        """Parameters that another method's plan trains on this cell. Its planning is not charged to this one."""
        ...

    def workspace(self, purpose: str) -> Path | None:
        """A folder that survives a killed run, for a search's own storage; None in a dry run."""
        ...


class EvaluationInputs(Protocol):
    """All that an evaluation may ask of the engine."""

    settings: Settings
    source: RowSource
    model: Any
    tokenizer: Any

    def validation(self, mix: str) -> list[Row]:
        """The validation rows of a mix."""
        ...

    def pretrain_text(self) -> list[Row]:
        """Held-out passages of plain text."""
        ...

    def nll(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Per row: `nll` (summed over completion tokens, nats), `tokens` (how many), `tokens_read` (all)."""
        ...

    def multiple_choice(self, task: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> Scored:
        """lm-eval's own evaluation of `items` under the prompts of its task group `task`."""
        ...

    def base(self) -> Score | None:
        """The base model's score, where the evaluation sets `NEEDS_BASE = True`; None on the base model itself."""
        ...
