"""Made-up results of an experiment: cells with the arrays and answers that a test gives them, and no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.report import tables
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

from ...questions import few_subjects


@dataclass
class MadeResults:
    """`contracts.Results` in memory."""

    settings: Settings
    cells: list[Cell]
    records: list[Record] = field(default_factory=list)
    measured: dict[Cell, dict[str, Arrays]] = field(default_factory=dict)
    answers: dict[Cell, dict[str, pd.DataFrame]] = field(default_factory=dict)

    def find(self, cell: Cell) -> Record | None:
        return next((record for record in self.records if record.cell == cell), None)

    def stages(self, record: Record) -> list[Stage]:
        return []

    def origins(self, record: Record) -> list[dict[str, Any]]:
        return [record.provenance]

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        return self.measured[record.cell].get(scorer)

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        return self.answers[record.cell][evaluation]

    def add(
        self,
        cell: Cell,
        layers: Sequence[int] = (),
        nll: Sequence[float] = (2.0, 2.0),
        right: Sequence[bool] = (True, False),
        arrays: dict[str, Arrays] | None = None,
        training: str | None = None,
        **plan: Any,
    ) -> Record:
        """Finish a cell. `nll`: per token, of its mix's rows of 10 tokens each. `right`: of questions, each its own
        subject. `plan`: facts of its plan. Cells of one mix, seed and layers share a training, as real ones do."""
        values, hits = np.asarray(nll, dtype=float), np.asarray(right, dtype=bool)
        self.measured[cell] = arrays or {}
        self.answers[cell] = {
            "validation_nll": pd.DataFrame({"mix": cell.mix, "tokens": 10, "nll": 10 * values}),
            "mmlu_0shot": pd.DataFrame(
                {"subject": [f"s{i}" for i in range(len(hits))], "answer": 0, "predicted": np.where(hits, 0, 1)}
            ),
        }
        nlls = {f"nll_{cell.mix}": float(values.mean()), "nll_mean": float(values.mean())}
        scores = {
            "validation_nll": Score(metrics=nlls, n_items=len(values), tokens=10 * len(values), seconds=1.0),
            "mmlu_0shot": Score(
                metrics={"acc": float(hits.mean())}, chance=0.25, n_items=len(hits), tokens=10, seconds=1.0
            ),
        }
        name = training or f"training-{cell.mix}-{cell.seed}-{'-'.join(map(str, layers))}"
        record = Record.model_validate(
            {
                "cell": cell, "profile": "tiny", "status": "ok", "key": "k",
                "settings": profiles.vary(self.settings, dict(cell.varied)),
                "identity": {"items": {"mmlu_0shot": "q", "validation_nll": "r"}},
                "provenance": {"time": "2026-01-01"}, "scores": scores, "stages": {"planning": [], "training": name},
                "plan": {
                    "layers": list(layers), "r": 2, "trainable_parameters": 100 * len(layers),
                    "base_parameters": 1000, "n_layers": 4,
                    **plan,
                },
            }
        )  # fmt: skip
        self.records.append(record)
        return record


@pytest.fixture
def made() -> Callable[..., MadeResults]:
    """made(experiment, mixes=..., seeds=..., study__block_sizes=...): its cells on tiny, none of them finished."""

    def make(experiment: ModuleType, **overrides: Any) -> MadeResults:
        settings = profiles.load("tiny", {key.replace("__", "."): value for key, value in overrides.items()})
        return MadeResults(settings, experiment.cells(settings))

    return make


@pytest.fixture
def ran_experiment() -> Callable[..., tuple[StoredResults, list[Table]]]:
    """ran_experiment(experiment, folder, mixes=...): its cells run on tiny, none failed; results and tables.

    Asserts that the tables written again, from the records alone, are the same to the byte.
    """

    def run(experiment: ModuleType, folder: Path, **overrides: Any) -> tuple[StoredResults, list[Table]]:
        settings = profiles.load("tiny", {key.replace("__", "."): value for key, value in overrides.items()})
        store, cells = Store(folder, "tiny"), experiment.cells(settings)
        with few_subjects():
            outcome = run_grid(Session(settings, store), cells, Progress())
        assert outcome.failed == 0
        results = StoredResults(store, settings, cells, outcome.keys)
        made = experiment.tables(results)
        first = tables.write(made, folder / "a")
        assert tables.write(experiment.tables(StoredResults(store, settings, cells)), folder / "b") == first
        return results, made

    return run
