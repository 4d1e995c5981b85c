"""Define what a method and an evaluation may ask of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""`scorer(model, batches, **parameters)` returns named arrays. Batches hold input_ids, attention_mask, labels."""


class MethodInputs(Protocol):
    """Offer what a method may ask of the engine. All that it spends is charged to the method.

    Attributes:
        settings: the cell's settings.
        seed: the cell's seed.
        n_layers: L, the number of the model's decoder layers.
    """

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
        """Run `scorer(model, batches, **parameters)` and return its arrays.

        A dry run (`floe-bench plan`) has no weights. Arrays that are not on disk yet are ones(L) there.

        Args:
            scorer: function of the model and the batches.
            on: "task" gives batches of calibration rows, "pretrain" of plain text, "nothing" none.
            pilot: adapter to train on the pilot rows first. Without it the base model is measured.
            sample: rows that the task's pilot and calibration rows come from.
            parameters: JSON-able arguments of the scorer.
        """
        ...

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        """Return the validation NLL (nats per token) after a short adaptation; inf where it diverged.

        It trains on the first `share` of the probe's rows. It is judged on training rows that no probe trains on.
        These are always the same. The base model is left as it was. Asked again, also by a later run, it answers from
        what was kept.
        """
        ...

    def trainable(self, peft_config: PeftConfig) -> int:
        """Return the number of parameters that training `peft_config` on this model would train."""
        ...

    def planned_trainable(self, method: str) -> int:
        """Return the number of parameters that another method's plan trains on this cell.

        That method's planning is not charged to this one.
        """
        ...


class EvaluationInputs(Protocol):
    """Offer what an evaluation may ask of the engine."""

    settings: Settings
    source: RowSource
    model: Any
    tokenizer: Any

    def validation(self, mix: str) -> list[Row]:
        """Return the validation rows of a mix."""
        ...

    def pretrain_text(self) -> list[Row]:
        """Return the held-out passages of plain text."""
        ...

    def nll(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Score the rows; return one line per row.

        Columns: `nll` (nats, summed over completion tokens), `tokens` (completion tokens), `tokens_read` (all tokens).
        """
        ...

    def multiple_choice(self, task: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> Scored:
        """Evaluate `items` by lm-eval, with the prompts of its task group `task`."""
        ...

    def base(self) -> Score | None:
        """Return the base model's score, for an evaluation that sets `NEEDS_BASE = True`.

        None on the base model itself.
        """
        ...
