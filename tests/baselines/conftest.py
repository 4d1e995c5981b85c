"""Method inputs on made-up scores: no model, no data."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from floe_bench.harness.contracts.inputs import MethodInputs
from floe_bench.harness.contracts.plan import OWN_ROWS
from floe_bench.harness.spec import profiles

N, L = 40, 6


class MadeInputs:
    """Answers `measure` from `arrays` by the scorer's name, and keeps what was asked for."""

    def __init__(self, arrays: dict[str, dict[str, np.ndarray]], seed: int, overrides: dict[str, Any]):
        self.arrays = arrays
        self.settings = profiles.load("tiny", overrides)
        self.seed = seed
        self.n_layers = L
        self.asked: list[dict[str, Any]] = []

    def measure(self, scorer, on, pilot=None, sample=OWN_ROWS, **parameters):
        asked = {"scorer": scorer.__name__, "on": on, "pilot": pilot, "sample": sample, "parameters": parameters}
        self.asked.append(asked)
        return self.arrays[scorer.__name__]


@pytest.fixture
def arrays() -> dict[str, dict[str, np.ndarray]]:
    """What every scorer measured: correlated gradients on N rows of L layers, and other scores that disagree."""
    generator = np.random.default_rng(4)
    mixing = generator.normal(size=(L, L))
    return {
        "fisher_gradients": {"G": generator.normal(size=(N, L)) @ mixing},
        "true_fisher_gradients": {"G": generator.normal(size=(N, L)) * np.arange(1, L + 1)},
        "parameter_diagonal": {"D": np.arange(L, 0, -1.0)},
        "taylor": {"T": np.ones(L)},
        "gradient_norm": {"norm": generator.random(L)},
        "weight_magnitude": {"magnitude": generator.random(L)},
    }


@pytest.fixture
def made_inputs(arrays) -> Callable[..., MethodInputs]:
    """made_inputs(seed=0, selection__layer_fraction=0.5): inputs of six layers under the tiny profile."""

    def make(seed: int = 0, **overrides: Any) -> Any:
        return MadeInputs(arrays, seed, {key.replace("__", "."): value for key, value in overrides.items()})

    return make
