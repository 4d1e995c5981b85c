"""What an evaluation may ask of the engine (`contracts.EvaluationInputs`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import evaluate
from harness.contracts import Row, Score, Scored
from harness.files import digest
from harness.nll import row_nll
from harness.registry import Plugin
from harness.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd


class Evaluating:
    """An evaluation's view of one model. Items can be listed before there is a model."""

    def __init__(self, bench: Workbench, base_score: Score | None, model: Any = None):
        self._bench = bench
        self._base_score = base_score
        self.model = model
        self.settings = bench.settings
        self.source = bench.source

    def on(self, model: Any) -> Evaluating:
        """The same view, of `model`."""
        return Evaluating(self._bench, self._base_score, model)

    @property
    def tokenizer(self) -> Any:
        return self._bench.tokenizer

    def validation(self, mix: str) -> list[Row]:
        return self._bench.mix(mix).validation

    def pretrain_text(self) -> list[Row]:
        return self._bench.text[1]

    def nll(self, rows: Sequence[Row]) -> pd.DataFrame:
        examples = self._bench.encode(rows)
        batch_size = self.settings.eval.batch_size
        scored = row_nll(self.model, examples, batch_size, self.tokenizer.pad_token_id)
        return scored.assign(tokens_read=[len(example["input_ids"]) for example in examples])

    def multiple_choice(self, task: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> Scored:
        return evaluate.multiple_choice(
            self.model,
            self.tokenizer,
            task,
            items,
            num_fewshot,
            batch_size=self.settings.eval.batch_size,
            max_length=self.model.config.max_position_embeddings,
        )

    def base(self) -> Score | None:
        """The base model's score, where the evaluation sets NEEDS_BASE; None on the base model itself."""
        return self._base_score


def items_digest(bench: Workbench, plugin: Plugin) -> str:
    """The content of what an evaluation scores. Raises UsageError where it cannot be read."""
    if plugin.id not in bench.items_digests:
        bench.items_digests[plugin.id] = digest(list(plugin.load().items(Evaluating(bench, None))))
    return bench.items_digests[plugin.id]
