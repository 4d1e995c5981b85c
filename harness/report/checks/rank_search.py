"""Rank search without a clear optimum

What: a cell searched its rank, and one of three things holds. The best rank is the smallest or largest allowed. Or
the curve of validation NLL against rank is flat: its range is no wider than the curve's own roughness explains. Or
the best rank first came up among the search's last trials, while ranks were still untried.

Why: at the edge, a better rank may lie outside. On a flat curve, noise picked the rank. A search that still improves
at its end has not converged: more trials would likely change the answer.

What to do: widen search.r_min and search.r_max; give probes more rows (search.probe_rows,
search.probe_validation_rows) or report that the rank does not matter; raise search.trials. Optuna's TPE draws its
first ten trials at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.plan import Searched, Trial
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results

NUMBER = 4

MIN_RANKS = 5
"""Fewer ranks leave fewer than 3 degrees of freedom for the noise. Any curve would look flat then."""

LATE_SHARE = 0.2
"""The last fifth of the trials counts as late. A best rank from before it survived at least a fifth of the search."""


def find(results: Results) -> list[Finding]:
    findings = []
    for record in results.records:
        searched = record.plan.searched
        if searched is None:
            continue
        messages = (
            _at_edge(record, searched),
            _flat(searched.trials, results.settings.study.confidence),
            _not_converged(record, searched.trials),
        )
        findings += [Finding(message, (record.cell.label,)) for message in messages if message is not None]
    return findings


def _at_edge(record: Record, searched: Searched) -> str | None:
    if not searched.optimum_at_edge:
        return None
    ranks = [trial.r for trial in searched.trials]
    return f"the best rank, {record.plan.r}, is on the edge of the range searched (tried: {min(ranks)} to {max(ranks)})"


def _flat(trials: Sequence[Trial], confidence: float) -> str | None:
    """Return the message where the curve of NLL against rank is flat, else None.

    The curve's range is tested against the studentized range: how far apart the extremes of pure noise lie.
    Trials that stopped at a share of the rows are left out: their values belong to another curve. So are those that
    failed.
    """
    from scipy.stats import studentized_range

    judged = [trial for trial in trials if trial.share == 1.0]
    curve = sorted({trial.r: trial.value for trial in judged if trial.value is not None}.items())
    if len(curve) < MIN_RANKS:
        return None
    ranks, values = zip(*curve, strict=True)
    noise = _roughness(ranks, values)
    spread = max(values) - min(values)
    if spread and (not noise or studentized_range.sf(spread / noise, len(curve), len(curve) - 2) < 1 - confidence):
        return None
    return (
        f"the curve of validation NLL over {len(curve)} ranks is flat: it spans {spread:.2g} nats with noise of "
        f"{noise:.2g} (one standard deviation)"
    )


def _roughness(x: ArrayLike, y: ArrayLike) -> float:
    """Return the standard deviation of the noise of a smooth curve's points.

    Each point is compared with the line between its neighbours. These are the pseudo-residuals of Gasser, Sroka and
    Jennen-Steinmetz (1986), Biometrika 73:625.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    left = (xs[2:] - xs[1:-1]) / (xs[2:] - xs[:-2])
    residuals = ys[1:-1] - left * ys[:-2] - (1 - left) * ys[2:]
    return float(np.sqrt(np.mean(residuals**2 / (1 + left**2 + (1 - left) ** 2))))


def _not_converged(record: Record, trials: Sequence[Trial]) -> str | None:
    ranks = [trial.r for trial in trials]
    search = record.settings.search
    exhausted = len(set(ranks)) > search.r_max - search.r_min
    in_order = ranks == sorted(set(ranks))  # an exhaustive search: its last trial is its largest rank
    if exhausted or in_order:
        return None
    first = next(i for i, trial in enumerate(trials, 1) if trial.r == record.plan.r)
    if first <= len(trials) - math.ceil(LATE_SHARE * len(trials)):
        return None
    return (
        f"the rank search has not converged: its best rank, {record.plan.r}, first came up in trial {first} of "
        f"{len(trials)}, with {len(set(ranks))} of {search.r_max - search.r_min + 1} ranks tried"
    )
