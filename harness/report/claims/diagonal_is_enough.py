"""The diagonal Fisher picks (almost) the layers that block and full Fisher pick, and their accuracy is the same

Rule: Block and full Fisher pick the diagonal's layers: the mean Jaccard index is at least JACCARD. Trainings on
these picks differ from that on the diagonal's by at most MARGINS.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._shared import mean_over_seeds, significant, within

CLAIM = Claim(
    number=8,
    source="layer selection",
    protocol="same pilot, budget and K",
    experiment="fisher_blocks",
    methods=("layer_scores*", "floe_layers", "floe_layers:fisher=block*", "floe_layers:fisher=full"),
    records=12,
    seeds=3,
)
JACCARD = 0.8
MARGINS = {"nll": 0.01, "accuracy": 0.02}


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    def of_matrix(row: dict[str, Any]) -> bool:
        return row["criterion"] == "full" or row["criterion"].startswith("blocks")

    picks = [row for row in evidence.rows("fisher_blocks") if of_matrix(row)]
    trained = [row for row in evidence.rows("fisher_blocks_training") if of_matrix(row)]
    if not picks or not trained:
        return Verdict("not run", "–", "no picks of block and full Fisher, or no training on them")
    overlap = mean_over_seeds([(row["mix"], row["seed"], row["jaccard_diagonal"]) for row in picks], evidence)
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
    if overlap.high < JACCARD:
        return Verdict("not reproduced", ours, f"the Jaccard index lies below {JACCARD}: other layers")
    if any(significant(row, name, evidence) for row in compared for name in ("nll", "accuracy")):
        return Verdict("not reproduced", ours, "training on the other picks differs significantly")
    if any(row["at_chance"] is not False for row in compared):
        return Verdict("underpowered", ours, "accuracies at chance, or none, say nothing of their being the same")
    same = all(within(row, name, MARGINS[name]) for row in compared for name in ("nll", "accuracy"))
    if same and overlap.low >= JACCARD:
        return Verdict("reproduced", ours, "almost the same layers, and the same scores within the margins")
    return Verdict("underpowered", ours, "the interval of the Jaccard index or of a score is too wide")
