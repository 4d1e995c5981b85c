"""Made-up records: what a finished cell of a small grid looks like."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import Searched, Trial
from floe_bench.harness.contracts.record import Cost, Record
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.experiments import main
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

SETTINGS = profiles.load("tiny", {"methods": ["full", "floe"], "mixes": ["dolly"], "seeds": 3})


def record(method: str, seed: int, accuracy: float, time: str = "2026-01-01", **changes) -> Record:
    scores = {
        "mmlu_0shot": Score(metrics={"acc": accuracy}, chance=0.25, n_items=100, tokens=10, seconds=1.0),
        "validation_nll": Score(metrics={"nll_dolly": 2.0, "nll_mean": 3.0}, n_items=8, tokens=500, seconds=2.0),
    }
    content = {
        "cell": Cell(method=method, mix="dolly", seed=seed), "profile": "tiny", "status": "ok", "key": "k",
        "identity": {"model": "m", "engine": "e", "items": {"mmlu_0shot": "q", "validation_nll": "r"}},
        "settings": SETTINGS, "provenance": {"time": time}, "scores": scores,
        "plan": {"layers": [0, 1], "r": 2 + seed, "trainable_parameters": 100, "base_parameters": 1000},
        "planning_cost": Cost(seconds=5, tokens=50),
    }  # fmt: skip
    return Record.model_validate(content | changes)


def history(curve: Mapping[int, float]) -> Searched:
    """The history of a search that tried each rank of the curve once."""
    trials = tuple(Trial(number=i, r=r, value=value, reused=False) for i, (r, value) in enumerate(curve.items()))
    return Searched(trials=trials, unique_trainings=len(curve), optimum_at_edge=False)


class MadeResults(StoredResults):
    """Made-up records with the answers that their scores say: the first questions right, the others wrong."""

    def __init__(self, records: list[Record]):
        super().__init__(Store(Path(), "tiny"), SETTINGS, main.cells(SETTINGS), records=records)

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        score = record.scores[evaluation]
        if evaluation == "validation_nll":
            nll = score.metrics["nll_dolly"]
            return pd.DataFrame({"mix": "dolly", "tokens": 10, "nll": [10 * nll] * score.n_items})
        right = round(score.metrics["acc"] * score.n_items)
        predicted = [0] * right + [1] * (score.n_items - right)
        return pd.DataFrame(
            {"subject": [f"s{i // 10}" for i in range(score.n_items)], "answer": 0, "predicted": predicted}
        )
