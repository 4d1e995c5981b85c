"""A planted truth: data from a teacher that differs from the base in known layers; which criterion finds them."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._gradients import scored, top
from floe_bench.harness.experiments._shared import selected
from floe_bench.harness.floe.fisher import block_fisher, fisher_diagonal, fisher_matrix
from floe_bench.harness.report.format import digits, number
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.paired import wilson
from floe_bench.harness.stats.ranks import jaccard

METHOD = "layer_scores:scores=fisher+taylor+gradient_norm"
N_LAYERS = 6
MODEL = {
    "model.id": "random-granite", "model.source": "random", "model.dtype": "float32", "model.prompt_format": "plain",
    "model.config.model_type": "granite", "model.config.vocab_size": 259, "model.config.num_hidden_layers": N_LAYERS,
    "model.config.hidden_size": 32, "model.config.intermediate_size": 16, "model.config.num_attention_heads": 2,
    "model.config.num_key_value_heads": 1, "model.config.max_position_embeddings": 2048,
    "model.config.bos_token_id": 256, "model.config.eos_token_id": 257, "model.config.pad_token_id": 258,
    "model.config.tie_word_embeddings": False, "model.config.initializer_range": 0.2,
    "model.config.embedding_multiplier": 4.0, "model.config.logits_scaling": 0.33,
    "model.config.residual_multiplier": 0.2,
}  # fmt: skip
"""Predicts sharply, and each layer adds little. A random Llama of the usual scale predicts nearly uniformly."""
TASK = {
    "data.source": "teacher", "data.max_length": 64, "data.train_rows": 256, "data.validation_fraction": 0.1,
    "data.validation_rows": 8, "data.pilot_fraction": 1.0, "data.pretrain_rows": 32, "data.teacher.rows": 320,
    "data.teacher.length": 32, "data.teacher.scale": 2.5, "adapter.target_modules": "down_proj", "adapter.r": 4,
    "adapter.lora_alpha": 8, "train.batch_size": 16, "train.micro_batch_size": 16, "train.epochs": 4.0,
    "train.learning_rate": 0.03, "train.group_by_length": False, "eval.evals": "validation_nll",
    "eval.primary": "validation_nll",
}  # fmt: skip
"""The pilot is long enough to converge. In a shorter one, layers that merely learn first score highest."""
FIRST_SEED = 10
WIDE_BUDGET = 0.5
"""A Taylor budget that no pair of these layers exceeds. The table also has the tight c = K/L."""


@dataclass(frozen=True)
class Condition:
    """One condition of the grid.

    planted: how many layers are planted. noise: the share of completion tokens that are noise. samples: how many rows
    the Fisher sees.
    """

    planted: int
    noise: float
    samples: int

    def layers(self, seed: int) -> tuple[int, ...]:
        """Draw the planted layers by the seed."""
        drawn = np.random.default_rng([seed, self.planted]).choice(N_LAYERS, self.planted, replace=False)
        return tuple(sorted(drawn.tolist()))

    def cell(self, mix: str, seed: int) -> Cell:
        """Return its cell. Base weights, teacher, rows and pilot all change with the seed."""
        own = {
            "model.seed": seed, "data.teacher.seed": seed, "data.teacher.noise": self.noise,
            "data.teacher.layers": ",".join(map(str, self.layers(seed))), "data.calibration_rows": self.samples,
            "selection.layer_fraction": self.planted / N_LAYERS, "selection.taylor_budget": WIDE_BUDGET,
            "eval.nll_mixes": mix,
        }  # fmt: skip
        return Cell(method=METHOD, mix=mix, seed=seed, varied=tuple((MODEL | TASK | own).items()))


def conditions(settings: Settings) -> list[Condition]:
    """Return the base condition (each grid's first), then each grid's others with the rest as in the base."""
    study = settings.study
    counts, noises, samples = study.planted_counts, study.planted_noises, study.planted_samples
    found = [Condition(count, noises[0], samples[0]) for count in counts]
    found += [Condition(counts[0], noise, samples[0]) for noise in noises]
    found += [Condition(counts[0], noises[0], size) for size in samples]
    return list(dict.fromkeys(found))


def cells(settings: Settings) -> list[Cell]:
    """Return every condition under every planted seed, on the first mix."""
    return [condition.cell(settings.mixes[0], seed) for condition in conditions(settings) for seed in _seeds(settings)]


def _seeds(settings: Settings) -> range:
    return range(FIRST_SEED, FIRST_SEED + settings.study.planted_seeds)


def tables(results: Results) -> list[Table]:
    """Show how often each criterion picks exactly the planted layers, under each condition."""
    rows = []
    for condition in conditions(results.settings):
        picked: list[tuple[tuple[int, ...], dict[str, tuple[int, ...]]]] = []
        for seed in _seeds(results.settings):
            found = scored(results, condition.cell(results.settings.mixes[0], seed))
            if found is not None:
                picked.append((condition.layers(seed), criteria(results, *found)))
        rows += [_row(condition, name, picked, results) for name in (picked[0][1] if picked else ())]
    frame = pd.DataFrame(rows)
    title = "Planted layers found"
    if frame.empty:
        return [Table("planted_layers", title, frame, frame, ["No finished cell yet."])]
    notes = [
        "Each seed has its own base weights, planted layers, teacher, rows and pilot. Found: exactly the planted "
        f"layers were picked, with its {results.settings.study.confidence:.0%} Wilson interval. Jaccard: mean overlap.",
        f"Pipelines select under a Taylor budget of c = {WIDE_BUDGET:g}, which hardly binds two layers, and under "
        "the tight c = K/L; in budget: how often that budget admits the planted set at all. Top: the K highest "
        "scores, for Taylor the K lowest.",
        "The model, the task and the pilot's length were chosen by trying some 25 settings on seeds below "
        f"{FIRST_SEED}; the table has seeds from there on.",
    ]
    return [Table("planted_layers", title, frame, view(frame, VIEW), notes)]


def criteria(results: Results, record: Record, G: Any, T: Any) -> dict[str, tuple[int, ...]]:
    """Return criterion -> the layers that it picks, from the stored scores."""
    wide = record.settings.selection
    tight = wide.model_copy(update={"taylor_budget": None, "taylor_budget_factor": 1.0})
    full = fisher_matrix(G)
    norms = results.arrays(record, "gradient_norm")
    assert norms is not None
    k = len(top(T, wide))
    random = np.random.default_rng([record.cell.seed, 99]).choice(len(T), k, replace=False)
    return {
        "pipeline, diagonal": selected(fisher_diagonal(G), T, wide).layers,
        "pipeline, blocks of 2": selected(block_fisher(full, 2), T, wide).layers,
        "pipeline, full": selected(full, T, wide).layers,
        "pipeline, diagonal, c = K/L": selected(fisher_diagonal(G), T, tight).layers,
        "top Fisher": top(fisher_diagonal(G), wide),
        "top Taylor": top(-T, wide),
        "top gradient norm": top(norms["norm"], wide),
        "random": tuple(random.tolist()),
    } | {"in budget c = K/L": _admitted(record, T, k)}


def _admitted(record: Record, T: Any, k: int) -> tuple[int, ...]:
    """Return the planted layers where c = K/L admits them, else none."""
    planted = record.settings.data.teacher.layers
    return planted if T[list(planted)].sum() <= k / len(T) * T.sum() * (1 + 1e-9) else ()


def _row(condition: Condition, name: str, picked: Any, results: Results) -> dict[str, Any]:
    exact = sum(set(criteria[name]) == set(planted) for planted, criteria in picked)
    interval = wilson(exact, len(picked), results.settings.study.confidence)
    return {
        **vars(condition),
        "criterion": name,
        "seeds": len(picked),
        "found": exact,
        "low": interval.low,
        "high": interval.high,
        "jaccard": float(np.mean([jaccard(planted, criteria[name]) for planted, criteria in picked])),
        "by_chance": 1 / comb(N_LAYERS, condition.planted),
    }


VIEW: View = {
    "Planted": ("planted", lambda count: f"{count} of {N_LAYERS}"),
    "Noise": ("noise", lambda share: f"{share:.0%}"),
    "Samples": "samples",
    "Criterion": "criterion",
    "Found": ("found", "seeds", lambda n, of: f"{n} of {of}"),
    "Interval %": ("low", "high", lambda low, high: f"{100 * low:.0f}–{100 * high:.0f}"),
    "Jaccard": ("jaccard", digits(2)),
    "By chance %": ("by_chance", lambda x: number(100 * x, 0)),
}
