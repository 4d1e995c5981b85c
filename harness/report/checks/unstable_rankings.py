"""Unstable layer rankings

What: cells that differ only in seed, sample or pilot rank the layers differently by Fisher score. Or resampling
the rows of G, the samples' gradients, changes which K layers are on top.

Why: an unstable ranking picks layers by chance. Another seed would have trained others. A difference to random
layers proves little then.

What to do: raise data.calibration_rows (the Fisher sample) or data.pilot_fraction, and report accuracy over seeds.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, SeveralMeasures
from floe_bench.harness.floe.selection import max_layers
from floe_bench.harness.stats.ranks import jaccard, spearman, top_k

NUMBER = 1

MIN_SPEARMAN = 0.7
"""Rankings with a smaller Spearman's ρ share less than half of their variance (0.7² ≈ 0.5)."""

MIN_JACCARD = 0.7
"""Pure noise stays below this. Its mean is still 0.48 to 0.66, as a resample shares rows with its sample (measured
with 8 rows, the top quarter of 8 or 32 layers, ten draws)."""

RESAMPLES = 200
"""The mean of this many Jaccard indices, each in 0..1, has a standard error of at most 0.04."""

SAMPLE_SETTINGS = ("data.pilot_fraction", "data.calibration_rows", "data.train_rows", "train.epochs")
"""Settings that choose the sample or the pilot. They change neither model nor task."""


def find(results: Results) -> list[Finding]:
    return _between_cells(results) + _between_resamples(results)


def _between_cells(results: Results) -> list[Finding]:
    groups: dict[tuple[object, ...], dict[tuple[float, ...], Record]] = defaultdict(dict)
    for record in results.records:
        cell = record.cell
        scores = _fisher_diagonal(results, record)
        if scores is not None:
            task = tuple((key, value) for key, value in cell.varied if key not in SAMPLE_SETTINGS)
            groups[cell.mix, cell.method, task].setdefault(tuple(scores.tolist()), record)
    # Methods that share their pilots share their rankings. Report these once.
    distinct: dict[frozenset[tuple[float, ...]], dict[tuple[float, ...], Record]] = {}
    for group in groups.values():
        distinct.setdefault(frozenset(group), group)
    return [finding for group in distinct.values() for finding in _disagreement(group)]


def _disagreement(group: dict[tuple[float, ...], Record]) -> list[Finding]:
    pairs = [(spearman(a, b), group[a], group[b]) for a, b in combinations(group, 2) if len(a) == len(b)]
    apart = [(rho, a, b) for rho, a, b in pairs if not rho >= MIN_SPEARMAN]
    if not apart:
        return []
    rho, a, b = min(apart, key=lambda pair: pair[0])
    message = (
        f"Fisher rankings disagree in {len(apart)} of {len(pairs)} pairs of cells that differ in seed or sample only: "
        f"Spearman's ρ is {rho:.2f} between '{a.cell.label}' and '{b.cell.label}' (expected at least {MIN_SPEARMAN})"
    )
    labels = dict.fromkeys(record.cell.label for _, *pair in apart for record in pair)
    return [Finding(message, tuple(labels))]


def _between_resamples(results: Results) -> list[Finding]:
    cells: dict[tuple[bytes, int], list[str]] = defaultdict(list)
    gradients: dict[bytes, NDArray[np.float64]] = {}
    for record in results.records:
        G = _measured_gradients(results, record)
        if G is not None and len(G) > 1:
            gradients[G.tobytes()] = G
            k = max_layers(record.settings.selection.layer_fraction, G.shape[1])
            cells[G.tobytes(), k].append(record.cell.label)
    findings = []
    for (content, k), labels in cells.items():
        G = gradients[content]
        shared = _bootstrap_jaccard(G, k)
        if shared < MIN_JACCARD:
            message = (
                f"resampling the {len(G)} rows of G keeps too few of the top {k} layers by Fisher score: "
                f"mean Jaccard index {shared:.2f} (expected at least {MIN_JACCARD})"
            )
            findings.append(Finding(message, tuple(labels)))
    return findings


def _bootstrap_jaccard(G: NDArray[np.float64], k: int) -> float:
    """Return the mean Jaccard index between the top k layers on all rows of G (N, L) and on resampled rows.

    Layers are ranked by their mean squared gradient.
    """
    n = len(G)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    squared = G.astype(np.float64) ** 2
    picked = top_k(squared.mean(axis=0), k)
    return float(np.mean([jaccard(picked, top_k(scores, k)) for scores in weights @ squared / n]))


def _fisher_diagonal(results: Results, record: Record) -> NDArray[np.float64] | None:
    G = _measured_gradients(results, record)
    if G is not None:
        return (G.astype(np.float64) ** 2).mean(axis=0)
    kept = record.plan.scores.get("fisher")
    return None if kept is None else np.asarray(kept, dtype=np.float64)


def _measured_gradients(results: Results, record: Record) -> NDArray[np.float64] | None:
    """Return G (N, L). None where the record measured none, or several and so has no single ranking."""
    try:
        arrays = results.arrays(record, "fisher_gradients")
    except SeveralMeasures:
        return None
    return None if arrays is None else arrays["G"]
