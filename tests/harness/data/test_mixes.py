"""Splits that never leak, caps that spread, and samples that nest."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data import mixes
from floe_bench.harness.data.sources import EMBEDDED, FolderSource
from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.spec.settings import DataSettings

ROOT = Path(__file__).parents[3]
MIXES = ("dolly", "flanv2", "medical", "code", "mixed")


class Listed(FolderSource):
    """A source whose every mix is a given list of rows."""

    def __init__(self, rows):
        super().__init__(Path())
        self.rows = rows

    def mix(self, name):
        return self.rows


def settings(**values) -> DataSettings:
    plain = {"train_rows": None, "validation_rows": 1, "validation_fraction": 0.2, "pretrain_rows": 1}
    return load("tiny").data.model_copy(update=plain | values)


def split(rows, **values) -> mixes.MixData:
    return mixes.split_mix("any", Listed(rows), settings(**values))


def made(n, domain="a", start=0):
    return [Row(f"question {domain}{i}", f"answer {domain}{i}", domain) for i in range(start, start + n)]


def whole(rows):
    """Both sides of the split, uncapped: (training prompts, validation prompts)."""
    n = split(rows).counts["validation_available"]
    parts = split(rows, validation_rows=n)
    return {str(row.prompt) for row in parts.train}, {str(row.prompt) for row in parts.validation}


def words(text):
    return " ".join(text.lower().split())


# --- splits -----------------------------------------------------------------------------------------


def assert_disjoint(source, fraction):
    """No validation prompt of any mix is a training prompt of any mix; every row is on one side."""
    train, validation = {}, {}
    for mix in MIXES:
        values = settings(validation_fraction=fraction)
        counts = mixes.split_mix(mix, source, values).counts
        values = values.model_copy(update={"validation_rows": counts["validation_available"]})
        parts = mixes.split_mix(mix, source, values)
        train[mix] = {words(row.prompt) for row in parts.train}
        validation[mix] = {words(row.prompt) for row in parts.validation}
        kept = len(parts.train) + len(parts.validation)
        assert kept == counts["read"] - counts["empty_completion"] - counts["repeated"]
    for mix in MIXES:
        assert validation[mix]
        for other in MIXES:
            assert not validation[mix] & train[other], (mix, other)
    assert validation["mixed"] == set().union(*(validation[mix] for mix in MIXES[:4]))
    assert train["mixed"] == set().union(*(train[mix] for mix in MIXES[:4]))


@pytest.mark.parametrize("fraction", [0.05, 0.2])
def test_no_validation_prompt_is_trained_on_in_any_embedded_mix(fraction):
    assert_disjoint(FolderSource(EMBEDDED, kind="embedded"), fraction)


@pytest.mark.slow
def test_no_validation_prompt_is_trained_on_in_any_real_mix(data_dir):
    assert_disjoint(FolderSource(data_dir), 0.05)


def test_one_prompt_with_several_completions_is_on_one_side():
    rows = [Row(prompt, f"answer {i} of {prompt}", "a") for prompt in map(str, range(100)) for i in range(3)]
    train, validation = whole(rows)
    assert not train & validation
    assert len(train) + len(validation) == 100


def test_prompts_that_differ_in_case_and_space_are_on_one_side():
    rows = [Row(f"What is\n {i}?", "x", "a") for i in range(100)] + [
        Row(f"what IS {i}? ", "y", "b") for i in range(100)
    ]
    train, validation = whole(rows)
    assert not {words(prompt) for prompt in train} & {words(prompt) for prompt in validation}


def test_the_split_depends_on_neither_order_nor_company():
    rows = made(200)
    shuffled = random.Random(0).sample(rows, len(rows))
    train, validation = whole(rows)
    assert whole(shuffled) == (train, validation)
    more_train, more_validation = whole(made(300, "b") + shuffled)
    assert train <= more_train
    assert validation <= more_validation


def test_capped_splits_and_their_digest_do_not_depend_on_order():
    rows = made(60, "a") + made(30, "b") + made(40, "c")
    shuffled = random.Random(1).sample(rows, len(rows))
    one, other = (split(some, train_rows=20, validation_rows=8) for some in (rows, shuffled))
    assert one == other
    assert one.digest == other.digest


def test_a_larger_validation_fraction_only_adds():
    rows = made(1000)
    sides = [{row.prompt for row in split(rows, validation_fraction=fraction).train} for fraction in (0.05, 0.2, 0.5)]
    assert sides[0] > sides[1] > sides[2]


def test_the_share_of_validation_rows_is_the_fraction():
    n, fraction = 5000, 0.2
    found = split(made(n), validation_fraction=fraction).counts["validation_available"]
    deviation = (n * fraction * (1 - fraction)) ** 0.5
    assert abs(found - n * fraction) < 4 * deviation


@pytest.mark.slow
def test_the_split_is_the_same_in_any_process():
    program = """
from floe_bench.harness.data import mixes, sources
from floe_bench.harness.spec import profiles
values = profiles.load("smoke", {"data.train_rows": 100}).data
print(mixes.split_mix("mixed", sources.open_source(values), values).digest)
"""
    values = load("smoke", {"data.train_rows": 100}).data
    here = mixes.split_mix("mixed", FolderSource(EMBEDDED, kind="embedded"), values).digest
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


def test_the_digest_depends_on_every_row():
    rows = made(100)
    first, *others = split(rows).train
    held_out = split(rows).validation
    variants = (
        [first, *others, *held_out],
        [*others, *held_out],
        [Row(first.prompt, "another answer", "a"), *others, *held_out],
        [Row(first.prompt, first.completion, "b"), *others, *held_out],
        [Row(first.prompt, first.completion, "a", "task"), *others, *held_out],
        [first, *others, Row(held_out[0].prompt, "another answer", "a")],
    )
    assert len({split(some).digest for some in variants}) == len(variants)


def test_empty_completions_and_repeats_are_dropped_and_counted():
    rows = made(50)
    spoilt = [
        *rows,
        Row("empty", "", "a"),
        Row("blank", " \n\t", "a"),
        rows[3],
        Row(str(rows[4].prompt).upper(), f"  {rows[4].completion}\n", "a"),
        Row(rows[5].prompt, "a second answer", "a"),
    ]
    counts = split(spoilt).counts
    assert (counts["read"], counts["empty_completion"], counts["repeated"]) == (55, 2, 2)
    assert counts["train_available"] + counts["validation_available"] == 51


# --- caps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (made(1) * 120, r"\(of 120 rows read, 119 repeat others, 1 are for training and 0 for validation\)"),
        ([Row(f"q {i}", " ", "a") for i in range(120)], r"has 0 training rows \(of 120 rows read, 120 have no text to"),
        (made(8), r"\(of 8 rows read, \d are for training and \d for validation\)"),
    ],
)
def test_too_few_rows_say_what_was_read_and_dropped(rows, said):
    with pytest.raises(UsageError, match=said):
        split(rows, train_rows=10)


def test_too_few_passages_say_how_many_were_too_short():
    short = [Row(None, f"passage {i}", "pretrain") for i in range(90)]
    with pytest.raises(UsageError, match=r"0 passages .*of 91 rows read, 91 are passages of fewer than 400 characters"):
        mixes.split_text(Listed([*short, Row(None, "x" * 399, "pretrain")]), settings(pretrain_rows=1))


def test_plain_text_as_a_mix_leaves_out_the_same_short_passages():
    passages = [Row(None, f"{i} " + "x" * (395 + i), "pretrain") for i in range(20)]
    data = split(passages, validation_fraction=0.5)
    assert data.counts["too_short"] == 3
    assert data.counts["train_available"] + data.counts["validation_available"] == 17


def test_rows_with_an_empty_prompt_are_counted_and_lie_on_both_sides():
    """Each by its completion: 200 rows with a share of 0.2 on one side, within four standard deviations."""
    rows = [Row(" " * (i % 2), f"answer {i}", "a") for i in range(200)]
    parts = split([*rows, *made(50)])
    assert parts.counts["empty_prompt"] == 200
    held_out = len({row.completion for row in rows} - {row.completion for row in parts.train})
    assert abs(held_out - 40) < 4 * (200 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(
    ("cap", "expected"),
    [(3, [1, 1, 1]), (5, [1, 2, 2]), (7, [1, 3, 3]), (8, [1, 3, 4]), (10, [1, 3, 6]), (14, [1, 3, 10])],
)
def test_a_cap_is_spread_over_the_domains(cap, expected):
    """Domains of 10, 3 and 1 rows; none has two rows more than another that is not used up."""
    parts = whole(made(200, "a") + made(200, "b") + made(200, "c"))
    by_domain = {domain: [p for p in sorted(parts[0]) if f" {domain}" in p] for domain in "abc"}
    prompts = by_domain["a"][:10] + by_domain["b"][:3] + by_domain["c"][:1] + sorted(parts[1])[:1]
    rows = [Row(prompt, "x", prompt.split()[1][0]) for prompt in prompts]
    counts = Counter(row.domain for row in split(rows, train_rows=cap).train)
    assert sorted(counts.values()) == expected


def test_a_cap_keeps_whole_rows_of_its_own_side():
    rows = made(100, "a") + made(100, "b")
    train, validation = whole(rows)
    parts = split(rows, train_rows=20, validation_rows=10)
    assert len({row.prompt for row in parts.train} & train) == 20
    assert len({row.prompt for row in parts.validation} & validation) == 10
    assert set(parts.train + parts.validation) <= set(rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_rows": 100}, r"mix 'any' has \d+ training rows \(.*\), but data\.train_rows asks for 100"),
        ({"validation_rows": 100}, r"mix 'any' has \d+ validation rows \(.*\), but data\.validation_rows asks for 100"),
    ],
)
def test_too_few_rows_are_a_usage_error(values, message):
    with pytest.raises(UsageError, match=message):
        split(made(100), **values)


def test_a_mix_without_rows_is_a_usage_error():
    with pytest.raises(UsageError, match="0 training rows"):
        split([])


# --- plain text -------------------------------------------------------------------------------------


def passages(n):
    return [Row(None, f"passage {i} ".ljust(mixes.SHORTEST_PASSAGE, "x"), "pretrain") for i in range(n)]


def test_plain_text_is_split_in_two():
    rows = [*passages(100), passages(1)[0], Row(None, "  ", "pretrain"), Row(None, "a heading", "pretrain")]
    calibration, held_out = mixes.split_text(Listed(rows), settings(pretrain_rows=30))
    assert (len(calibration), len(held_out)) == (30, 30)
    assert not set(calibration) & set(held_out)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert mixes.split_text(Listed(shuffled), settings(pretrain_rows=30)) == (calibration, held_out)


def test_too_few_passages_are_a_usage_error():
    with pytest.raises(UsageError, match=r"data\.pretrain_rows asks for 8"):
        mixes.split_text(Listed(passages(9)), settings(pretrain_rows=8))


# --- samples ----------------------------------------------------------------------------------------


def test_a_sample_is_seeded_without_replacement_and_nested():
    rows = made(100)
    shuffled = random.Random(0).sample(rows, len(rows))
    for seed in range(3):
        sizes = [mixes.sample(rows, n, seed) for n in (10, 30, 100, 200)]
        assert [len(set(some)) for some in sizes] == [len(some) for some in sizes] == [10, 30, 100, 100]
        assert set(sizes[0]) < set(sizes[1]) < set(sizes[2]) == set(rows)
        assert mixes.sample(shuffled, 30, seed) == sizes[1]


def test_samples_of_different_seeds_differ_as_chance_has_it():
    """Two independent samples of 300 out of 1000 share 90 on average (hypergeometric, deviation 6.6)."""
    rows = made(1000)
    drawn = [set(mixes.sample(rows, 300, seed)) for seed in range(4)]
    for i in range(4):
        for j in range(i):
            assert abs(len(drawn[i] & drawn[j]) - 90) < 33


def test_every_row_is_drawn_equally_often():
    rows = made(20)
    counts = Counter(row for seed in range(400) for row in mixes.sample(rows, 5, seed))
    assert all(abs(counts[row] - 100) < 45 for row in rows)  # binomial(400, 1/4): deviation 8.7


@pytest.mark.parametrize(
    ("n", "rho", "expected"),
    [(48, 0.5, 24), (7, 0.3, 3), (10, 0.3, 3), (1, 0.01, 1), (25, 0.28, 7), (9, 1, 9)],
)
def test_the_pilot_takes_its_share_rounded_up(n, rho, expected):
    rows = made(n)
    pilot = mixes.pilot_sample(rows, settings(pilot_fraction=rho), seed=3)
    assert len(set(pilot) & set(rows)) == len(pilot) == expected


def test_a_larger_pilot_holds_the_smaller():
    rows = made(50)
    small, large = (set(mixes.pilot_sample(rows, settings(pilot_fraction=rho), seed=0)) for rho in (0.3, 0.5))
    assert small < large
