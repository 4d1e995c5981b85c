"""Made-up records: what a finished cell of a small grid looks like."""

from harness import profiles
from harness.contracts import Cell, Cost, Record, Score

SETTINGS = profiles.load("tiny", {"methods": ["full", "floe"], "mixes": ["dolly"], "seeds": 3})


def record(method: str, seed: int, accuracy: float, time: str = "2026-01-01", **changes) -> Record:
    scores = {
        "mmlu_0shot": Score(metrics={"acc": accuracy}, chance=0.25, n_items=57, tokens=10, seconds=1.0),
        "validation_nll": Score(metrics={"nll_dolly": 2.0, "nll_mean": 3.0}, n_items=8, tokens=500, seconds=2.0),
    }
    content = {
        "cell": Cell(method=method, mix="dolly", seed=seed), "profile": "tiny", "status": "ok", "key": "k",
        "identity": {"model": "m", "engine": "e"}, "settings": SETTINGS, "provenance": {"time": time}, "scores": scores,
        "plan": {"layers": [0, 1], "r": 2 + seed, "trainable_parameters": 100, "base_parameters": 1000},
        "planning_cost": Cost(seconds=5, tokens=50),
    }  # fmt: skip
    return Record.model_validate(content | changes)
