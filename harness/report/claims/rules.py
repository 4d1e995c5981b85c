"""How each verdict is reached: one function per rule of the ledger, `rule(evidence, claim) -> Verdict`.

An interval decides, not a point: reproduced where the whole interval allows it, not reproduced where none of it
does, underpowered where it says neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.floe.selection import max_layers
from floe_bench.harness.report import pairing
from floe_bench.harness.report.claims import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._relative import pairs_of, relative_accuracy
from floe_bench.harness.report.format import number
from floe_bench.harness.stats.paired import Estimate, holm, mean_interval
from floe_bench.harness.stats.trend import linear_trend


def share_of_full(evidence: Evidence, claim: Claim) -> Verdict:
    """Accuracy of FLoE as a share of full fine-tuning's, against `figure` less `tolerance`, on the claim's mix, where
    FLoE adapts `layer_share` of the layers at most and full fine-tuning is above the base model."""
    results, (mix,) = evidence.results, claim.mixes
    for floe, full in pairs_of(results, mix, "floe", "full"):
        if len(floe.plan.layers) > max_layers(claim.figures["layer_share"], len(full.plan.layers)):
            return Verdict("not run", "–", f"FLoE adapted more than {claim.figures['layer_share']:.0%} of the layers")
    over_base = pairs_of(results, mix, "full", "base")
    if not over_base:
        return Verdict("not run", "–", f"full and base are not both finished on {mix}")
    gained = pairing.accuracy_difference(results, results, over_base, evidence.confidence)
    if gained is not None and (gained.low <= 0 or gained.p >= 1 - evidence.confidence):
        return Verdict("underpowered", "–", "full fine-tuning is not above the base model: a share of it means nothing")
    return relative_accuracy(results, claim, ["full"], of="of", offset=0.0)


def gain_over_full_layer(evidence: Evidence, claim: Claim) -> Verdict:
    """FLoE's relative gain in accuracy over the better of the full-layer adapters, against `figure` less
    `tolerance`, on the claim's mix."""
    return relative_accuracy(evidence.results, claim, ["lora", "hydralora"], of="over", offset=1.0)


def lower_nll_at_equal_parameters(evidence: Evidence, claim: Claim) -> Verdict:
    """MoE-LoRA's NLL less LoRA's where both match FLoE's trainable parameters within its tolerance, mix by mix, Holm
    over them; `margin` in nats."""
    results = evidence.results
    run = {mix: pairs_of(results, mix, "hydralora:match=floe", "lora:match=floe") for mix in results.settings.mixes}
    pairs = {mix: [pair for pair in found if all(map(_matched, pair))] for mix, found in run.items()}
    if any(run.values()) and not any(pairs.values()):
        return Verdict("not run", "–", "no integer rank brings both methods to FLoE's parameters")
    found = {
        mix: pairing.nll_difference(results, results, pair, evidence.confidence) for mix, pair in pairs.items() if pair
    }
    known = {mix: difference for mix, difference in found.items() if difference is not None}
    if not known:
        return Verdict("not run", "–", "no mix has both methods at FLoE's parameters")
    if any(len(pairs[mix]) < claim.seeds for mix in run):
        return Verdict("underpowered", "–", f"fewer than {claim.seeds} seeds at FLoE's parameters on a mix")
    adjusted = holm([difference.p for difference in known.values()])
    alpha, margin = 1 - evidence.confidence, claim.figures["margin"]
    ours = "; ".join(f"{mix} {_nats(d.difference, d.low, d.high)}" for mix, d in known.items())
    lower = [p is not None and p < alpha and d.difference < 0 for p, d in zip(adjusted, known.values(), strict=True)]
    higher = [p is not None and p < alpha and d.difference > 0 for p, d in zip(adjusted, known.values(), strict=True)]
    within = [max(abs(d.low), abs(d.high)) <= margin for d in known.values()]
    if all(lower):
        return Verdict("reproduced", ours, "NLL significantly lower than LoRA's on every mix")
    if any(higher):
        return Verdict("not reproduced", ours, "NLL significantly higher than LoRA's on a mix")
    if all(within):
        return Verdict("not reproduced", ours, f"the same NLL within {margin} nats")
    return Verdict("underpowered", ours, "not significant on every mix, nor surely the same")


def search_without_exhaustion(evidence: Evidence, claim: Claim) -> Verdict:
    """TPE on the stored curves: finds the grid's best rank in `share_found` of the searches, and trains at most
    `share_trained` of the ranks."""
    rows, figures = evidence.rows("rank_search"), claim.figures
    found = fmean(row["found"] for row in rows)
    low, high = min(row["found_low"] for row in rows), max(row["found_high"] for row in rows)
    trained = fmean(row["unique_mean"] / row["ranks"] for row in rows)
    ours = (
        f"best rank in {found:.0%} [{low:.0%}, {high:.0%}] of {sum(row['searches'] for row in rows)} searches, "
        f"{trained:.0%} of the ranks trained"
    )
    if trained > figures["share_trained"]:
        return Verdict("not reproduced", ours, f"it trains more than {figures['share_trained']:.0%} of the grid")
    if high < figures["share_found"]:
        return Verdict("not reproduced", ours, f"it misses the best rank in over {1 - figures['share_found']:.0%}")
    ps = [row["friedman_p"] for row in evidence.rows("rank_search_flatness")]
    if low < figures["share_found"] or any(p is None or p >= 1 - evidence.confidence for p in ps):
        return Verdict("underpowered", ours, "the curves do not tell their ranks from noise, or searches are too few")
    return Verdict("reproduced", ours, "the best rank found without training the whole grid")


def stable_rankings(evidence: Evidence, claim: Claim) -> Verdict:
    """Spearman between pilot fractions at least `spearman`, and deep layers' ranks spread more than shallow ones'."""
    pairs = [row for row in evidence.rows("ranking_stability_pairs") if row["differs"] == "pilot fraction"]
    agreement = _mean_over_seeds([(row["mix"], row["seed_a"], row["spearman"]) for row in pairs], evidence)
    if agreement is None:
        return Verdict("underpowered", "–", "two pilot fractions are finished on fewer than two mixes and seeds")
    depths = {d["verdict"] for d in evidence.rows("ranking_stability_depth") if d["spread_over"] == "conditions"}
    figure = claim.figures["spearman"]
    text = f"Spearman {agreement.mean:.2f} [{agreement.low:.2f}, {agreement.high:.2f}] of {agreement.n} pairs"
    ours = "; ".join([text, *sorted(depths)])
    if agreement.high < figure:
        return Verdict("not reproduced", ours, f"the interval lies below {figure}")
    if agreement.low >= figure and "deep layers more stable" in depths:
        return Verdict("not reproduced", ours, "stable, but deep layers are the more stable ones")
    if agreement.low >= figure and depths == {"deep layers less stable"}:
        return Verdict("reproduced", ours, "stable, deep layers least")
    return Verdict("underpowered", ours, f"not surely above {figure}, or deep layers not seen to be least stable")


def linear_memory(evidence: Evidence, claim: Claim) -> Verdict:
    """Peak memory against adapted layers: a rising line of at least `r_squared`, and no significant x² term."""
    lines = [row for row in evidence.rows("layer_fraction_memory") if row["quantity"] == "peak_bytes"]
    if not lines:
        return Verdict("underpowered", "–", "too few trainings for a line")
    ours = "; ".join(
        f"{line['mix']} {line['slope'] / 1e6:.2f} MB [{line['low'] / 1e6:.2f}, {line['high'] / 1e6:.2f}] a layer, "
        f"R² {number(line['r_squared'], 2)}, p of x² {pairing.p_text(line['quadratic_p'])}"
        for line in lines
    )
    if any(line["quadratic_p"] is None or line["counts"] < claim.figures["counts"] for line in lines):
        return Verdict("underpowered", ours, f"fewer than {claim.figures['counts']} numbers of adapted layers on a mix")
    adjusted = holm([line["quadratic_p"] for line in lines])
    if any(p is not None and p < 1 - evidence.confidence for p in adjusted):
        return Verdict("not reproduced", ours, "a curve fits significantly better than a line")
    if any(line["high"] <= 0 for line in lines):
        return Verdict("not reproduced", ours, "the peak does not rise with the number of adapted layers")
    if all(line["low"] > 0 and line["r_squared"] >= claim.figures["r_squared"] for line in lines):
        return Verdict("reproduced", ours, "a rising line, and no curve beside it")
    return Verdict("underpowered", ours, "the measured peaks scatter too much about the line")


def latency_rises_with_experts(evidence: Evidence, claim: Claim) -> Verdict:
    """Milliseconds per token against M: a line's slope whose interval lies above 0."""
    rows = [row for row in evidence.rows("experts_latency") if row["num_experts"] and row["ms_per_token"] is not None]
    if len(rows) < 3:
        return Verdict("underpowered", "–", "fewer than three numbers of experts have a latency")
    base = next((row["ms_per_token"] for row in evidence.rows("experts_latency") if not row["num_experts"]), None)
    x, y = [row["num_experts"] for row in rows], [row["ms_per_token"] for row in rows]
    slope = linear_trend(x, y, evidence.confidence)
    ours = f"{slope.slope:+.4f} ms a token and expert [{slope.low:+.4f}, {slope.high:+.4f}]"
    if base:
        ours += f"; M = {x[-1]}: {y[-1] / base:.2f} × the base model"
    if slope.low > 0:
        return Verdict("reproduced", ours, "latency rises with the number of experts")
    if slope.high <= 0:
        return Verdict("not reproduced", ours, "latency does not rise with the number of experts")
    return Verdict("underpowered", ours, "the slope's interval covers 0")


def linear_scoring(evidence: Evidence, claim: Claim) -> Verdict:
    """Exponent of the seconds of diagonal Fisher scoring in depth: its interval below `exponent`, O(L²) being 2."""
    rows = [row for row in evidence.rows("scoring_cost_trend") if row["scorer"] == "fisher_gradients"]
    if not rows:
        return Verdict("underpowered", "–", "too few depths for a trend")
    (row,) = rows
    ours = f"seconds grow as L^{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}] over {row['depths']} depths"
    if row["high"] <= claim.figures["exponent"]:
        return Verdict("reproduced", ours, "no faster than linear in depth")
    if row["low"] > claim.figures["exponent"]:
        return Verdict("not reproduced", ours, "faster than linear in depth")
    return Verdict("underpowered", ours, f"the exponent's interval covers {claim.figures['exponent']}")


def diagonal_is_enough(evidence: Evidence, claim: Claim) -> Verdict:
    """Block and full Fisher pick the diagonal's layers (mean Jaccard at least `jaccard`), and what is trained on
    them differs by no more than `margin_nll` and `margin_accuracy`."""

    def of_matrix(row: dict[str, Any]) -> bool:
        return row["criterion"] == "full" or row["criterion"].startswith("blocks")

    picks = [row for row in evidence.rows("fisher_blocks") if of_matrix(row)]
    trained = [row for row in evidence.rows("fisher_blocks_training") if of_matrix(row)]
    if not picks or not trained:
        return Verdict("not run", "–", "no picks of block and full Fisher, or no training on them")
    overlap = _mean_over_seeds([(row["mix"], row["seed"], row["jaccard_diagonal"]) for row in picks], evidence)
    if overlap is None:
        mean = fmean(row["jaccard_diagonal"] for row in picks)
        return Verdict("underpowered", f"Jaccard {mean:.2f}", "one mix and seed: no interval")
    compared = [row for row in trained if row["is"] == "compared"]
    if any(row["nll_p"] is None for row in compared):
        return Verdict("underpowered", "–", "not every other pick has an NLL beside that of the diagonal's")
    text = f"Jaccard {overlap.mean:.2f} [{overlap.low:.2f}, {overlap.high:.2f}]"
    ours = f"{text}; {len(compared)} other picks trained"
    if compared:
        differences = [row["nll_difference"] for row in compared]
        ours += f", NLL {min(differences):+.4f} to {max(differences):+.4f} nats"
    if overlap.high < claim.figures["jaccard"]:
        return Verdict("not reproduced", ours, f"the Jaccard index lies below {claim.figures['jaccard']}: other layers")
    if any(_significant(row, name, evidence) for row in compared for name in ("nll", "accuracy")):
        return Verdict("not reproduced", ours, "training on the other picks differs significantly")
    if any(row["at_chance"] is not False for row in compared):
        return Verdict("underpowered", ours, "accuracies at chance, or none, say nothing of their being the same")
    same = all(_within(row, name, claim.figures[f"margin_{name}"]) for row in compared for name in ("nll", "accuracy"))
    if same and overlap.low >= claim.figures["jaccard"]:
        return Verdict("reproduced", ours, "almost the same layers, and the same scores within the margins")
    return Verdict("underpowered", ours, "the interval of the Jaccard index or of a score is too wide")


def transferred_layers(evidence: Evidence, claim: Claim) -> Verdict:
    """NLL on the claim's mixes with layers picked on the `general` ones, less that with own picks: at most
    `margin_nll`."""
    figures = claim.figures
    rows = [
        row
        for row in evidence.rows("cross_domain")
        if row["mix"] in claim.mixes and row["layers_from"] in figures["general"]
    ]
    if not rows:
        return Verdict("not run", "–", "no layers of a general mix were adapted on a special one")
    compared = [row for row in rows if row["is"] == "compared"]
    if any(row["nll_p"] is None for row in compared):
        return Verdict("underpowered", "–", "not every pair of mixes has an NLL beside that with own picks")
    ours = "; ".join(
        f"{row['layers_from']}→{row['mix']} "
        + (row["is"] if row["is"] != "compared" else _nats(row["nll_difference"], row["nll_low"], row["nll_high"]))
        for row in rows
    )
    if any(_significant(row, "nll", evidence) and row["nll_difference"] > 0 for row in compared):
        return Verdict("not reproduced", ours, "significantly worse than own picks on a mix")
    if all(row["nll_high"] <= figures["margin_nll"] for row in compared):
        return Verdict("reproduced", ours, f"no worse than own picks by {figures['margin_nll']} nats")
    return Verdict("underpowered", ours, "not significantly worse, nor surely as good")


def cliff(evidence: Evidence, claim: Claim) -> Verdict:
    """A significant step to fewer layers that costs at least `share` of the whole range of the NLL curve, and at least
    `steepness` times what a straight line over the numbers of layers would lose there."""
    figures = claim.figures
    steps = [row for row in evidence.rows("layer_fraction_steps") if row["nll_range"]]
    tested = [row for row in steps if row["nll_p"] is not None]
    counts = {mix: 1 + sum(row["mix"] == mix for row in tested) for mix in {row["mix"] for row in steps}}
    if not counts or min(counts.values()) < figures["counts"]:
        return Verdict("underpowered", "–", f"fewer than {figures['counts']} numbers of layers on a mix")
    worse = [row for row in tested if _significant(row, "nll", evidence) and row["nll_difference"] > 0]
    if not worse:
        return Verdict("underpowered", f"{len(tested)} steps, none significant", "no step to fewer layers shows a loss")

    def needed(row: dict[str, Any]) -> float:
        own = [step for step in steps if step["mix"] == row["mix"]]
        layers = max(step["k_more"] for step in own) - min(step["k_fewer"] for step in own)
        return max(figures["share"], figures["steepness"] * (row["k_more"] - row["k_fewer"]) / layers)

    step = max(worse, key=lambda row: row["nll_low"] / row["nll_range"] - needed(row))
    share = step["nll_difference"] / step["nll_range"]
    ours = (
        f"{step['mix']}, K {step['k_more']} → {step['k_fewer']}: "
        f"{_nats(step['nll_difference'], step['nll_low'], step['nll_high'])}, {share:.0%} of the range"
    )
    if step["nll_low"] / step["nll_range"] >= needed(step):
        return Verdict("reproduced", ours, "one step costs most of what all steps cost")
    if all(row["nll_high"] / row["nll_range"] < figures["share"] for row in tested):
        return Verdict("not reproduced", ours, "a loss spread over several steps")
    return Verdict("underpowered", ours, f"a step may cost {figures['share']:.0%} of the range, or drops many layers")


# --- shared -----------------------------------------------------------------------------------------


def _significant(row: dict[str, Any], name: str, evidence: Evidence) -> bool:
    """Whether the row's difference is, after Holm over its table."""
    return row[f"{name}_p"] is not None and row[f"{name}_p"] < 1 - evidence.confidence


def _within(row: dict[str, Any], name: str, margin: float) -> bool:
    """Whether the row's interval is known and lies within ± margin."""
    return row[f"{name}_low"] is not None and row[f"{name}_low"] >= -margin and row[f"{name}_high"] <= margin


def _mean_over_seeds(values: Sequence[tuple[str, int, float | None]], evidence: Evidence) -> Estimate | None:
    """Mean of (mix, seed, value), with its interval over mixes and seeds; None for fewer than two of these."""
    known = [(f"{mix} {seed}", value) for mix, seed, value in values if value is not None]
    if len({cluster for cluster, _ in known}) < 2:
        return None
    return mean_interval([value for _, value in known], [name for name, _ in known], confidence=evidence.confidence)


def _matched(record: Record) -> bool:
    """Whether the record's rank brought it within the tolerance of the matched method's parameters."""
    return record.plan.matched is not None and record.plan.matched.within_tolerance


def _nats(value: float, low: float, high: float) -> str:
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}] nats"
