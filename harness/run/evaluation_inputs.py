"""Answer what an evaluation asks of the engine (`contracts.inputs.EvaluationInputs`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.contracts.score import Score, Scored
from floe_bench.harness.evaluation import multiple_choice
from floe_bench.harness.evaluation.nll import row_nll
from floe_bench.harness.model.shape import shape_of
from floe_bench.harness.registry import Plugin
from floe_bench.harness.run.session import Session

if TYPE_CHECKING:
    import pandas as pd


UNBOUNDED = 2048
"""Tokens that a model without a longest sequence reads of a question: lm-eval's own default."""


class Evaluating:
    """Show an evaluation one model. Items can be listed before there is a model."""

    def __init__(self, session: Session, base_score: Score | None, model: Any = None):
        self._session = session
        self._base_score = base_score
        self.model = model
        self.settings = session.settings
        self.source = session.source

    def on(self, model: Any) -> Evaluating:
        """Return the same inputs, with `model`."""
        return Evaluating(self._session, self._base_score, model)

    @property
    def tokenizer(self) -> Any:
        return self._session.tokenizer

    def validation(self, mix: str) -> list[Row]:
        return self._session.mix(mix).validation

    def pretrain_text(self) -> list[Row]:
        return self._session.text[1]

    def nll(self, rows: Sequence[Row]) -> pd.DataFrame:
        examples = self._session.encode(rows)
        batch_size = self.settings.eval.batch_size
        scored = row_nll(self.model, examples, batch_size, self.tokenizer.pad_token_id)
        return scored.assign(tokens_read=[len(example["input_ids"]) for example in examples])

    def multiple_choice(self, task: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> Scored:
        return multiple_choice.multiple_choice(
            self.model,
            self.tokenizer,
            task,
            items,
            num_fewshot,
            batch_size=self.settings.eval.batch_size,
            max_length=shape_of(self.model.config).max_length or UNBOUNDED,
        )

    def base(self) -> Score | None:
        """Return the base model's score where the evaluation sets NEEDS_BASE. None on the base model itself."""
        return self._base_score


def items_of(session: Session, plugin: Plugin) -> list[dict[str, Any]]:
    """Read, once, what an evaluation scores. Raises UsageError where it cannot be read."""
    if plugin.id not in session.items:
        session.items[plugin.id] = list(plugin.load().items(Evaluating(session, None)))
    return session.items[plugin.id]
