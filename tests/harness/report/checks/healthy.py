"""A made-up run in which nothing is wrong; tests plant faults in copies of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record, Stage, TrainOutcome
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.contracts.tables import SeveralMeasures
from floe_bench.harness.spec import profiles

L = 8
N_QUESTIONS = 400
SETTINGS = profiles.load(
    "tiny", {"search.r_min": 2, "search.r_max": 16, "selection.layer_fraction": 0.25, "seeds": 2, "mixes": ["dolly"]}
)
PROVENANCE = {
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
    "hardware": dict.fromkeys(("machine", "system", "processor", "cores", "threads"), "same") | {"accelerator": None},
    "git": {"commit": "c0ffee", "dirty": False},
    "time": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
PILOT_CURVE = (2 + np.exp(-np.arange(40) / 5) + np.tile([0.02, -0.02], 20)).tolist()
RANKS = (10, 16, 7, 3, 2, 12, 8, 5, 14, 6, 7, 7)
TRIALS = [{"number": i, "r": r, "value": 2 + 0.001 * (r - 7) ** 2, "reused": False} for i, r in enumerate(RANKS)]


@dataclass
class Run:
    """`contracts.Results`, held in memory."""

    settings = SETTINGS
    records: list[Record]
    cells: list[Cell]
    used: dict[str, list[Stage]] = field(default_factory=dict)
    G: dict[str, Any] = field(default_factory=dict)
    tables: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    def find(self, cell: Cell) -> Record | None:
        return next((record for record in self.records if record.cell == cell), None)

    def stages(self, record: Record) -> list[Stage]:
        return self.used.get(record.cell.label, [])

    def origins(self, record: Record) -> list[dict[str, Any]]:
        return [record.provenance, *(stage.provenance for stage in self.stages(record))]

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        G = self.G.get(record.cell.label) if scorer == "fisher_gradients" else None
        if isinstance(G, list):
            raise SeveralMeasures("used 2 measures of fisher_gradients: name its parameters")
        return None if G is None else {"G": G}

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        return self.tables[record.cell.label, evaluation]

    def change(self, label: str, **changes: Any) -> None:
        """Replace fields of one record."""
        self.records = [r.model_copy(update=changes) if r.cell.label == label else r for r in self.records]

    def record(self, label: str) -> Record:
        return next(record for record in self.records if record.cell.label == label)


def training(**changes: Any) -> TrainOutcome:
    content = {
        "trainable_parameters": 10, "total_parameters": 100, "adapter_bytes": 40, "optimizer_steps": 40,
        "tokens": 4000, "truncated_rows": 0, "control_text_rows": 0, "seconds": 2.0, "tokens_per_second": 2000.0,
        "peak_bytes": 1, "peak_kind": "cuda", "loss_curve": PILOT_CURVE, "learning_rate": 1e-2,
    }  # fmt: skip
    return TrainOutcome.model_validate(content | changes)


def stage(kind: str, key: str, **result: Any) -> Stage:
    return Stage(kind=kind, key=key, identity={}, result=result, provenance=PROVENANCE)


def answers(accuracy: float, n: int = N_QUESTIONS) -> pd.DataFrame:
    """`n` questions of 20 subjects; whoever is better gets right all that the worse one does."""
    difficulty = np.random.default_rng(0).permutation(n)
    right = difficulty < round(accuracy * n)
    return pd.DataFrame({"subject": [f"s{i % 20}" for i in range(n)], "answer": 0, "predicted": np.where(right, 0, 1)})


def rows_nll(level: float, n: int = 40, seed: int = 0) -> pd.DataFrame:
    """Rows of 10 tokens; easy and hard ones alike for every model, a little noise of the model's own."""
    shared = np.random.default_rng(0).normal(0, 0.5, n)
    own = np.random.default_rng([seed, int(1000 * level)]).normal(0, 0.02, n)
    return pd.DataFrame({"nll": 10 * (level + shared + own), "tokens": 10, "mix": "dolly"})


def gradients(seed: int) -> np.ndarray:
    """G (64, L): each layer's gradients are half as large as those of the layer below it."""
    return np.random.default_rng(seed).normal(size=(64, L)) * 0.5 ** np.arange(L)


def router(gates: dict[str, list[float]]) -> pd.DataFrame:
    """One line per module and expert, as the evaluation `router` keeps them."""
    return pd.DataFrame(
        [
            {"module": module, "expert": expert, "mean_gate": gate, "entropy": 1.0}
            for module, mean_gates in gates.items()
            for expert, gate in enumerate(mean_gates)
        ]
    )


def score(accuracy: float, n: int = N_QUESTIONS, chance: float | None = 0.25) -> Score:
    return Score(metrics={"acc": accuracy}, chance=chance, n_items=n, tokens=1, seconds=1.0)


def record(cell: Cell, accuracy: float = 0.5, nll: float = 2.0, layers: int = 2, **changes: Any) -> Record:
    trained = cell.method != "base"
    searched = {"trials": TRIALS, "optimum_at_edge": False, "unique_trainings": 10}
    content = {
        "cell": cell, "profile": "tiny", "status": "ok", "key": "k",
        "identity": {"items": {"mmlu_0shot": "q", "validation_nll": "r"}},
        "settings": SETTINGS,
        "provenance": PROVENANCE,
        "data": {"digest": "d", "overlap": {"mmlu_0shot": {"n": 13, "items": [], "of": N_QUESTIONS}}},
        "plan": {
            "layers": list(range(layers)) if trained else [], "r": 7, "learning_rate_ratio": 1.0,
            "searched": searched if cell.method in ("floe", "other_search") else None,
        },
        "training": training() if trained else None,
        "scores": {
            "mmlu_0shot": score(accuracy),
            "validation_nll": Score(metrics={"nll_dolly": nll}, n_items=40, tokens=1, seconds=1.0),
            "router": Score(metrics={"max_gate": 0.4}, n_items=8, tokens=1, seconds=1.0),
        },
    }  # fmt: skip
    return Record.model_validate(content | changes)


def add(run: Run, cell: Cell, accuracy: float = 0.5, nll: float = 2.0, layers: int = 2, **changes: Any) -> None:
    """A healthy cell, whole."""
    run.cells.append(cell)
    run.records.append(record(cell, accuracy, nll, layers, **changes))
    run.tables[cell.label, "mmlu_0shot"] = answers(accuracy)
    run.tables[cell.label, "validation_nll"] = rows_nll(nll)
    run.tables[cell.label, "router"] = router(
        {"layers.0.up_proj": [0.4, 0.3, 0.3], "layers.1.up_proj": [0.3, 0.4, 0.3]}
    )
    if cell.method in ("floe", "other_search"):
        run.G[cell.label] = gradients(cell.seed)
        run.used[cell.label] = [
            stage("training", f"pilot{cell.seed}", loss_curve=PILOT_CURVE),
            stage("measure", f"fisher{cell.seed}"),
            stage("probe", f"probe{cell.seed}", nll=2.0, training={"loss_curve": PILOT_CURVE}),
        ]


def healthy() -> Run:
    """Three trained methods and the base over two seeds, and one of them over four layer counts."""
    run = Run([], [])
    for seed in range(2):
        for method in ("base", "lora", "floe", "other_search"):
            add(run, Cell(method=method, mix="dolly", seed=seed))
    for step, fraction in enumerate((0.125, 0.25, 0.5, 1.0)):
        cell = Cell(method="floe", mix="dolly", seed=0, varied=(("selection.layer_fraction", fraction),))
        add(run, cell, accuracy=0.4 + 0.05 * step, nll=2.2 - 0.05 * step, layers=2**step)
    return run


def fired(check: ModuleType, run: Run) -> list[Finding]:
    """What the check finds: sentences of one line about cells of the run."""
    findings = check.find(replace(run))
    for finding in findings:
        assert finding.cells and all(any(cell == c.label for c in run.cells) for cell in finding.cells)
        assert finding.message and "\n" not in finding.message
    return findings
