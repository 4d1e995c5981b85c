"""Accuracy relative to a rival's: the ratio's interval against a bootstrap of the ratio itself, and its guards."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.judgement import Evidence, Verdict
from floe_bench.harness.contracts.record import PlanFacts, Record
from floe_bench.harness.report.judging import verdict_on
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

from ...records import SETTINGS, MadeResults, record
from .planted import JUDGE, rule_of

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
            record(
                method, seed, float(right.mean()), cell=Cell(method=method, mix=mix, seed=seed), plan=adapted(method)
            )
            for (method, seed), right in hits.items()
        ]
        records = [with_score(one, n_items=len(subjects)) for one in records]
        settings = SETTINGS.model_copy(update={"mixes": (mix,)})
        StoredResults.__init__(self, Store(Path(), "tiny"), settings, [r.cell for r in records], records=records)
        self.hits, self.subjects = hits, subjects

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        right = self.hits[record.cell.method, record.cell.seed]
        return pd.DataFrame({"subject": self.subjects, "answer": 0, "predicted": np.where(right, 0, 1)})


def adapted(method: str) -> dict:
    """The layers that a model of four has adapted."""
    return {"layers": {"base": [], "floe": [0]}.get(method, [0, 1, 2, 3])}


def with_score(record: Record, **changes) -> Record:
    scores = record.scores | {"mmlu_0shot": record.scores["mmlu_0shot"].model_copy(update=changes)}
    return record.model_copy(update={"scores": scores})


def share(hits, **arguments) -> Verdict:
    """The rule's verdict; without a base model of its own, one that has half of full fine-tuning's answers right."""
    halved = {("base", seed): worse(right, 0.5, seed=9) for (method, seed), right in hits.items() if method == "full"}
    return rule_of("share_of_full", Evidence(Answered("dolly", halved | hits, **arguments), []))


def gain(hits) -> Verdict:
    return rule_of("gain_over_full_layer", Evidence(Answered("mixed", hits), []))


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
    guessing = np.arange(400) % 20 < 5  # a quarter of every subject
    found = share({("floe", 0): guessing, ("full", 0): guessing})
    assert found.verdict == "underpowered" and "not above chance" in found.why
    # One seed at chance is enough.
    some = np.arange(400) % 20 < 7  # 35 % of every subject
    full = {("full", seed): guessing if seed == 2 else some for seed in range(3)}
    one = full | {(method, seed): some & (method == "floe") for method in ("floe", "base") for seed in range(3)}
    assert "not above chance" in share(one).why


def test_a_rival_without_a_right_answer_has_no_share():
    assert share({("floe", 0): FULL, ("full", 0): np.zeros(400, dtype=bool)}).verdict == "underpowered"


def test_a_missing_rival_is_named():
    assert share({("floe", 0): FULL}) == Verdict("not run", "–", "full and base are not both finished on dolly")
    base = {("base", 0): worse(FULL, 0.5)}
    assert share(base | {("full", 0): FULL}).why == "FLoE and full are not both finished on dolly"
    assert share({("floe", 0): FULL, ("full", 1): FULL}).verdict == "not run"  # other seeds do not pair
    assert "FLoE and hydralora" in gain({("floe", 0): FULL, ("lora", 0): FULL}).why


def test_a_primary_evaluation_without_accuracy_gives_no_share():
    results = Answered("dolly", {("floe", 0): FULL, ("full", 0): FULL, ("base", 0): worse(FULL, 0.5)})
    results.records = [with_score(one, metrics={"nll_mean": 2.0}) for one in results.records]
    found = rule_of("share_of_full", Evidence(results, []))
    assert found == Verdict("not run", "–", "the primary evaluation has no accuracy")


def test_a_share_of_a_full_fine_tuning_that_is_no_better_than_the_base_model_means_nothing():
    equal = {(method, seed): FULL for method in ("floe", "full", "base") for seed in range(3)}
    assert share(equal).verdict == "underpowered" and "not above the base model" in share(equal).why
    better = {("base", seed): FULL | worse(~FULL, 0.5) for seed in range(3)}
    assert share(equal | better).verdict == "underpowered"
    hardly = {("base", seed): FULL & (np.arange(400) != 3) for seed in range(3)}  # one answer fewer
    assert share(equal | hardly).verdict == "underpowered"
    assert share(equal | {("base", seed): worse(FULL, 0.5) for seed in range(3)}).verdict == "reproduced"


def test_a_share_with_more_layers_than_the_claim_says_is_another_claim():
    hits = {(method, 0): FULL if method != "base" else worse(FULL, 0.5) for method in ("floe", "full", "base")}
    results = Answered("dolly", hits)
    results.records[0] = results.records[0].model_copy(update={"plan": PlanFacts(layers=(0, 1))})
    found = rule_of("share_of_full", Evidence(results, []))
    assert found.verdict == "not run" and "more than 25% of the layers" in found.why


def verdict_on_share(seeds: dict[str, int]) -> Verdict:
    """The verdict on claim 1 of equal answers on so many seeds of each method, the base model's half as many."""
    hits = {
        (method, seed): worse(FULL, 0.5) if method == "base" else FULL
        for method, n in seeds.items()
        for seed in range(n)
    }
    return verdict_on(JUDGE["share_of_full"], Evidence(Answered("dolly", hits), []))


def test_a_verdict_on_a_share_asks_for_three_seeds_of_all_three_methods():
    assert verdict_on_share({"floe": 3, "full": 3, "base": 3}).verdict == "reproduced"
    few = verdict_on_share({"floe": 1, "full": 5, "base": 5})
    assert few.verdict == "underpowered" and "1 of the 3 whole seeds" in few.why
    assert verdict_on_share({"floe": 1, "full": 5}).verdict == "underpowered"
    assert verdict_on_share({"floe": 6, "full": 6}).verdict == "not run"  # records enough, but no base model's
    assert verdict_on_share({"floe": 5, "full": 5, "base": 2}).verdict == "underpowered"


# --- NLL at equal parameters ------------------------------------------------------------------------

HYDRALORA, LORA = "hydralora:match=floe", "lora:match=floe"
ROWS = np.random.default_rng(3).normal(2.0, 0.5, 40)


class Scored(MadeResults):
    """Both matched methods' rows on each mix, over three seeds: LoRA's `ROWS`, and MoE-LoRA's with the mix's changes.
    Of the seeds the first `matched` have MoE-LoRA at FLoE's parameters."""

    def __init__(self, changes: dict[str, np.ndarray], matched: int = 3):
        records = [
            record(method, seed, 0.5, cell=Cell(method=method, mix=mix, seed=seed), plan=plan(near))
            for seed in range(3)
            for mix in changes
            for method, near in ((HYDRALORA, seed < matched), (LORA, True))
        ]
        settings = SETTINGS.model_copy(update={"mixes": tuple(changes)})
        StoredResults.__init__(self, Store(Path(), "tiny"), settings, [r.cell for r in records], records=records)
        self.changes = changes

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        change = self.changes[record.cell.mix] if record.cell.method == HYDRALORA else 0.0
        return pd.DataFrame({"mix": record.cell.mix, "tokens": 10, "nll": 10 * (ROWS + change)})


def plan(matched: bool) -> dict:
    return {
        "layers": [0],
        "r": 1,
        "matched": {"method": "floe", "target": 100, "ratio": 1.0, "within_tolerance": matched},
    }


def at_equal_parameters(*changes: np.ndarray, matched: int = 3) -> Verdict:
    results = Scored(dict(zip(("dolly", "code"), changes, strict=False)), matched)
    return rule_of("lower_nll_at_equal_parameters", Evidence(results, []))


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
    found = at_equal_parameters(lower, matched=0)
    assert found.verdict == "not run" and "no integer rank" in found.why
    found = at_equal_parameters(lower, matched=2)
    assert found.verdict == "underpowered" and "fewer than 3 seeds at FLoE's parameters" in found.why


def test_nothing_scored_is_not_run():
    results = Scored({"dolly": np.zeros(40)})
    results.records = results.records[:1]
    found = rule_of("lower_nll_at_equal_parameters", Evidence(results, []))
    assert found.verdict == "not run"
    without = [
        r.model_copy(update={"scores": {"mmlu_0shot": r.scores["mmlu_0shot"]}}) for r in Scored({"dolly": ROWS}).records
    ]
    results.records = without
    assert rule_of("lower_nll_at_equal_parameters", Evidence(results, [])).verdict == "not run"
