"""Accuracy relative to a rival's: the ratio's interval against a bootstrap of the ratio itself, and its guards."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.claims import Evidence, Verdict, rules
from harness.contracts import Cell, Record
from harness.results import StoredResults
from harness.store import Store

from ..records import SETTINGS, MadeResults, record
from .planted import CLAIM_OF

SUBJECTS = np.repeat(np.arange(20), 20)
RNG = np.random.default_rng(0)
FULL = RNG.random(400) < np.repeat(RNG.uniform(0.5, 0.9, 20), 20)  # easy subjects and hard ones


def worse(hits: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    """The same answers, each right one lost with probability 1 - share."""
    return hits & (np.random.default_rng(seed).random(len(hits)) < share)


class Answered(MadeResults):
    """Made-up records with the answers given for each."""

    def __init__(self, mix: str, hits: dict[tuple[str, int], np.ndarray], subjects: np.ndarray = SUBJECTS):
        records = [
            record(method, seed, float(right.mean()), cell=Cell(method=method, mix=mix, seed=seed))
            for (method, seed), right in hits.items()
        ]
        records = [with_score(one, n_items=len(subjects)) for one in records]
        settings = SETTINGS.model_copy(update={"mixes": (mix,)})
        StoredResults.__init__(self, Store(Path(), "tiny"), settings, [r.cell for r in records], records=records)
        self.hits, self.subjects = hits, subjects

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        right = self.hits[record.cell.method, record.cell.seed]
        return pd.DataFrame({"subject": self.subjects, "answer": 0, "predicted": np.where(right, 0, 1)})


def with_score(record: Record, **changes) -> Record:
    scores = record.scores | {"mmlu_0shot": record.scores["mmlu_0shot"].model_copy(update=changes)}
    return record.model_copy(update={"scores": scores})


def share(hits, **arguments) -> Verdict:
    return rules.share_of_full(Evidence(Answered("dolly", hits, **arguments), []), CLAIM_OF["share_of_full"])


def gain(hits) -> Verdict:
    return rules.gain_over_full_layer(Evidence(Answered("mixed", hits), []), CLAIM_OF["gain_over_full_layer"])


def numbers(verdict: Verdict) -> tuple[float, float, float]:
    """Value, low and high as shown, as fractions."""
    value, low, high = re.findall(r"-?\d+\.\d", verdict.ours)[:3]
    return float(value) / 100, float(low) / 100, float(high) / 100


def bootstrap(a: np.ndarray, b: np.ndarray, subjects: np.ndarray = SUBJECTS) -> tuple[float, float]:
    """95 % percentile interval of Σa / Σb over resampled subjects."""
    sums = np.array([[side[subjects == s].sum() for s in np.unique(subjects)] for side in (a, b)])
    drawn = np.random.default_rng(5).integers(0, sums.shape[1], size=(20_000, sums.shape[1]))
    ratios = sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


# --- the interval -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.95, 0.8, 0.5])
def test_the_interval_is_that_of_the_ratio_over_subjects(kept):
    floe = worse(FULL, kept) | worse(~FULL, 0.1, seed=2)
    value, low, high = numbers(share({("floe", 0): floe, ("full", 0): FULL}))
    assert value == pytest.approx(floe.sum() / FULL.sum(), abs=0.001)
    expected_low, expected_high = bootstrap(floe, FULL)
    # Student's width over 20 subjects is 1.09 of the bootstrap's.
    assert (high - low) == pytest.approx(1.09 * (expected_high - expected_low), rel=0.15)
    assert (low + high) / 2 == pytest.approx((expected_low + expected_high) / 2, abs=0.01)


def test_equal_seeds_say_as_much_as_one():
    floe = worse(FULL, 0.8)
    one = share({("floe", 0): floe, ("full", 0): FULL})
    three = share({(method, seed): hits for seed in range(3) for method, hits in (("floe", floe), ("full", FULL))})
    assert numbers(three) == pytest.approx(numbers(one), abs=0.01)
    assert one.ours.endswith("of full, 1 seed") and three.ours.endswith("of full, 3 seeds")


def test_seeds_that_differ_widen_the_interval():
    apart = {("floe", s): worse(FULL, kept, seed=s) for s, kept in enumerate((0.95, 0.8, 0.65))}
    alike = {("floe", s): worse(FULL, 0.8, seed=s) for s in range(3)}
    full = {("full", s): FULL for s in range(3)}
    _, low, high = numbers(share(apart | full))
    _, alike_low, alike_high = numbers(share(alike | full))
    assert high - low > 1.5 * (alike_high - alike_low)


def test_questions_of_one_subject_are_resampled_one_by_one():
    found = share({("floe", 0): worse(FULL, 0.8), ("full", 0): FULL}, subjects=np.zeros(400, dtype=int))
    _, low, high = numbers(found)
    expected = bootstrap(worse(FULL, 0.8), FULL, subjects=np.arange(400))
    assert (low, high) == pytest.approx(expected, abs=0.01)


# --- verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "verdict"), [(1.0, "reproduced"), (0.99, "reproduced"), (0.93, "underpowered"), (0.7, "not reproduced")]
)
def test_verdicts_on_a_share(kept, verdict):
    assert share({("floe", 0): worse(FULL, kept), ("full", 0): FULL}).verdict == verdict


def test_a_gain_is_over_the_better_rival():
    better = FULL | worse(~FULL, 0.6)
    hits = {("floe", 0): better, ("lora", 0): worse(FULL, 0.5), ("hydralora", 0): FULL}
    found = gain(hits)
    assert found.verdict == "reproduced" and "over hydralora" in found.ours
    assert numbers(found)[0] == pytest.approx(better.sum() / FULL.sum() - 1, abs=0.001)
    assert gain(hits | {("floe", 0): FULL}).verdict == "not reproduced"  # a gain of 0, exactly
    assert gain(hits | {("lora", 0): better}).verdict == "not reproduced"
    assert gain(hits | {("floe", 0): FULL | worse(~FULL, 0.15)}).verdict == "underpowered"


def test_a_share_of_a_rival_at_chance_means_nothing():
    guessing = np.arange(400) % 4 == 0
    found = share({("floe", 0): guessing, ("full", 0): guessing})
    assert found.verdict == "underpowered" and "not above chance" in found.why
    # One seed at chance is enough.
    one = {("floe", 0): FULL, ("full", 0): FULL, ("floe", 1): guessing, ("full", 1): guessing}
    assert "not above chance" in share(one).why


def test_a_rival_without_a_right_answer_has_no_share():
    assert share({("floe", 0): FULL, ("full", 0): np.zeros(400, dtype=bool)}).verdict == "underpowered"


def test_a_missing_rival_is_named():
    assert share({("floe", 0): FULL}) == Verdict("not run", "–", "FLoE and full are not both finished on dolly")
    assert share({("floe", 0): FULL, ("full", 1): FULL}).verdict == "not run"  # other seeds do not pair
    assert "FLoE and hydralora" in gain({("floe", 0): FULL, ("lora", 0): FULL}).why


def test_a_primary_evaluation_without_accuracy_gives_no_share():
    results = Answered("dolly", {("floe", 0): FULL, ("full", 0): FULL})
    results.records = [with_score(one, metrics={"nll_mean": 2.0}) for one in results.records]
    found = rules.share_of_full(Evidence(results, []), CLAIM_OF["share_of_full"])
    assert found == Verdict("not run", "–", "the primary evaluation has no accuracy")


# --- NLL at equal parameters ------------------------------------------------------------------------

HYDRALORA, LORA = "hydralora:match=floe", "lora:match=floe"
ROWS = np.random.default_rng(3).normal(2.0, 0.5, 40)


class Scored(MadeResults):
    """Both matched methods' rows on each mix: LoRA's `ROWS`, and MoE-LoRA's with the mix's changes."""

    def __init__(self, changes: dict[str, np.ndarray], matched: bool = True):
        records = [
            record(method, 0, 0.5, cell=Cell(method=method, mix=mix, seed=0), plan=plan(matched or method == LORA))
            for mix in changes
            for method in (HYDRALORA, LORA)
        ]
        settings = SETTINGS.model_copy(update={"mixes": tuple(changes)})
        StoredResults.__init__(self, Store(Path(), "tiny"), settings, [r.cell for r in records], records=records)
        self.changes = changes

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        change = self.changes[record.cell.mix] if record.cell.method == HYDRALORA else 0.0
        return pd.DataFrame({"mix": record.cell.mix, "tokens": 10, "nll": 10 * (ROWS + change)})


def plan(matched: bool) -> dict:
    return {"layers": [0], "r": 1, "details": {"match": {"within_tolerance": matched}}}


def at_equal_parameters(*changes: np.ndarray, matched: bool = True) -> Verdict:
    results = Scored(dict(zip(("dolly", "code"), changes, strict=False)), matched)
    return rules.lower_nll_at_equal_parameters(Evidence(results, []), CLAIM_OF["lower_nll_at_equal_parameters"])


def test_nll_at_equal_parameters():
    noise = np.random.default_rng(4).normal(0, 0.02, 40)
    centred = noise - noise.mean()
    lower, higher, same, unsure = centred - 0.1, centred + 0.1, centred / 20, 4 * centred
    assert at_equal_parameters(lower).verdict == at_equal_parameters(lower, lower).verdict == "reproduced"
    assert at_equal_parameters(higher).verdict == at_equal_parameters(lower, higher).verdict == "not reproduced"
    assert at_equal_parameters(same, same).why == "the same NLL within 0.005 nats"
    assert at_equal_parameters(unsure).verdict == at_equal_parameters(lower, unsure).verdict == "underpowered"
    assert at_equal_parameters(lower).ours.startswith("dolly -0.1000 [")
    # A t of 2.15 is a p of 0.04, which is significant alone and not as one of two.
    hardly = centred - 2.15 * centred.std(ddof=1) / 40**0.5
    assert at_equal_parameters(hardly).verdict == "reproduced"
    assert at_equal_parameters(hardly, hardly).verdict == "underpowered"


def test_parameters_that_are_not_equal_are_no_evidence():
    lower = np.full(40, -0.1) + np.random.default_rng(4).normal(0, 0.02, 40)
    found = at_equal_parameters(lower, matched=False)
    assert found.verdict == "not run" and "no integer rank" in found.why


def test_nothing_scored_is_not_run():
    results = Scored({"dolly": np.zeros(40)})
    results.records = results.records[:1]
    found = rules.lower_nll_at_equal_parameters(Evidence(results, []), CLAIM_OF["lower_nll_at_equal_parameters"])
    assert found.verdict == "not run"
    without = [
        r.model_copy(update={"scores": {"mmlu_0shot": r.scores["mmlu_0shot"]}}) for r in Scored({"dolly": ROWS}).records
    ]
    results.records = without
    assert (
        rules.lower_nll_at_equal_parameters(Evidence(results, []), CLAIM_OF["lower_nll_at_equal_parameters"]).verdict
        == "not run"
    )
