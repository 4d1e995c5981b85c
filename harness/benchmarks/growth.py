"""Growth: time per layer, sample, cell and record at a large size against that at a quarter of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from floe_bench.harness.benchmarks import Bench, Measurement, Side, _records
from floe_bench.harness.experiments import main
from floe_bench.harness.floe import importance, selection
from floe_bench.harness.floe.fisher import fisher_diagonal, fisher_matrix
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.registry import find
from floe_bench.harness.report import build
from floe_bench.harness.run.dry_run import plan_cell
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.folder import Store

DEPTHS = (8, 16, 32, 64, 128)
SAMPLES = (8, 32, 128)
RECORDS = (60, 240, 960)
LIMIT = 1.0
"""Seconds for a selection among 128 layers."""
AT_MOST = 1.3
"""Between a size and four times it: linear growth gives 1 (less with a fixed cost), n log n at most 1.25, n² 4."""

Sizes = Mapping[int, Side]


def run(bench: Bench) -> Iterator[Measurement]:
    yield from _selection(bench)
    yield _per_unit(bench, "scoring, layers", "layer", {n: _scoring(n, 8) for n in DEPTHS})
    yield _per_unit(bench, "scoring, samples", "sample", {n: _scoring(8, n) for n in SAMPLES})
    yield from _records_of_a_grid(bench)


def _selection(bench: Bench) -> Iterator[Measurement]:
    """Time greedy, backward start and refinement: K steps over L layers each, so K L at least."""
    forms: dict[str, Callable[[Any], Any]] = {"diagonal": fisher_diagonal, "full": fisher_matrix}
    for form, of in forms.items():
        seconds = bench.alternate({str(n): _select(n, of) for n in DEPTHS})
        deepest = seconds[str(DEPTHS[-1])]
        yield Measurement(
            what=f"selection among {DEPTHS[-1]} layers, {form} Fisher",
            values={"selection": deepest, "limit": [LIMIT] * len(deepest)},
            ratio=("selection", "limit"),
            at_most=1.0,
            notes={"seconds": seconds},
        )


def _select(n_layers: int, of: Callable[[Any], Any]) -> Side:
    generator = np.random.default_rng(n_layers)
    G = generator.standard_normal((64, n_layers)) * generator.lognormal(0, 1, n_layers)
    T = generator.lognormal(0, 1, n_layers)
    fisher, k = of(G), selection.max_layers(0.25, n_layers)
    budget = selection.budget_share(0.25, None, 1.0, n_layers) * T.sum()
    return lambda: selection.select(fisher, T, budget, k)


def _scoring(n_layers: int, samples: int) -> Side:
    """Return Fisher and Taylor scoring of a random Llama, with `samples` rows in batches of four."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
    )
    base = LlamaForCausalLM(config).eval()
    tokens = torch.randint(256, (samples // 4, 4, 64))
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in tokens]
    adapter = MoeLoraConfig(r=2, num_experts=2, target_modules=["gate_proj", "up_proj", "down_proj"])
    plain = LlamaForCausalLM(config).eval()
    model = get_peft_model(base, adapter)  # pyright: ignore[reportArgumentType]

    def score() -> None:
        importance.fisher_gradients(model, batches)  # pyright: ignore[reportArgumentType]
        importance.taylor(plain, batches)

    return score


def _records_of_a_grid(bench: Bench) -> Iterator[Measurement]:
    """Time finding a grid done, planning it and reporting it, over folders of copied real records."""
    origin = bench.folder / "growth" / "models"
    models = _records.run_models(origin)
    stores: dict[int, Store] = {}
    for n in RECORDS:
        stores[n] = Store(bench.folder / "growth" / str(n), _records.PROFILE)
        _records.fill(stores[n], _records.settings_of(n), models, Store(origin, _records.PROFILE))
    sides: dict[str, Callable[[Store, int], object]] = {
        "finding what is done": _find_done,
        "plan": _plan,
        "report": _report,
    }
    for name, side in sides.items():
        of = {n: (lambda store=store, n=n, side=side: side(store, n)) for n, store in stores.items()}
        yield _per_unit(bench, f"{name}, cells", "cell", of)


def _find_done(store: Store, n: int) -> None:
    settings = _records.settings_of(n)
    with Progress() as progress:
        outcome = run_grid(Session(settings, store), main.cells(settings), progress)
    if outcome.ran:
        raise RuntimeError(f"{outcome.ran} of {n} cells were not done")


def _plan(store: Store, n: int) -> None:
    settings = _records.settings_of(n)
    session = Session(settings, store)
    for cell in main.cells(settings):
        plan_cell(resolve_cell(session, cell))


def _report(store: Store, n: int) -> None:
    """Read the records, make the tables and run the checks."""
    settings = _records.settings_of(n)
    with redirect_stdout(io.StringIO()):
        evidence = build.experiment(find("experiment", "main"), store, settings)
        build.findings_in(evidence)


def _per_unit(bench: Bench, what: str, unit: str, sides: Sizes) -> Measurement:
    """Measure seconds per unit at each size. The target holds the largest against a quarter of it."""
    seconds = bench.alternate({str(n): side for n, side in sides.items()}, min(3, bench.repeats))
    values = {f"{n}": [s / n for s in seconds[str(n)]] for n in sides}
    *_, largest = sides
    return Measurement(
        what=f"{what}: seconds per {unit} at {largest} against {largest // 4}",
        values=values,
        ratio=(str(largest), str(largest // 4)),
        at_most=AT_MOST,
    )
