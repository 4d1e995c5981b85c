"""The embedded rows are enough for the smoke profile, all different, and nobody else's."""

import gzip
import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from floe_bench.harness.data.mixes import split_mix, split_text
from floe_bench.harness.data.sources import EMBEDDED, FolderSource
from floe_bench.harness.spec.profiles import load

MIXES = ("dolly", "flanv2", "medical", "code")
COLUMNS = {
    "dolly": {"instruction", "context", "response", "category"},
    "flanv2": {"task", "inputs", "targets", "submix"},
    "medical": {"instruction", "input", "output"},
    "codealpaca": {"instruction", "input", "output"},
    "pretrain": {"text", "source"},
}
DOLLY_CATEGORIES = {
    "brainstorming",
    "classification",
    "closed_qa",
    "creative_writing",
    "general_qa",
    "information_extraction",
    "open_qa",
    "summarization",
}
N = 9  # words that make a question long enough to be recognised by

SOURCE = FolderSource(EMBEDDED, kind="embedded")


def raw(file):
    return [json.loads(line) for line in (EMBEDDED / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text):
    """In lower case, without punctuation."""
    return tuple(re.findall(r"\w+", text.lower()))


def embedded_rows(mix):
    return list(SOURCE.mix(mix))


def runs(text):
    """Every run of N words."""
    return (text[i : i + N] for i in range(len(text) - N + 1))


# --- enough -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "tiny"])
@pytest.mark.parametrize("mix", MIXES)
def test_there_are_rows_enough_to_train_and_to_validate(mix, profile):
    values = load(profile).data.model_copy(update={"train_rows": 160, "validation_rows": 40})
    parts = split_mix(mix, SOURCE, values)
    assert len({row.prompt for row in parts.train}) >= 160
    assert len({row.prompt for row in parts.validation}) >= 40
    assert parts.counts["empty_completion"] == parts.counts["repeated"] == 0


@pytest.mark.parametrize("profile", ["smoke", "tiny"])
def test_there_is_plain_text_enough(profile):
    assert len(embedded_rows("pretrain")) >= 60
    calibration, held_out = split_text(SOURCE, load(profile).data)
    assert calibration
    assert held_out


# --- as the readers expect --------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(COLUMNS))
def test_every_line_has_the_columns_and_nothing_but_text(file):
    for row in raw(file):
        assert set(row) == COLUMNS[file]
        assert all(isinstance(value, str) for value in row.values())


def test_the_files_are_those_that_are_read():
    assert {path.name for path in EMBEDDED.iterdir() if path.is_file()} == {f"{file}.jsonl" for file in COLUMNS}


@pytest.mark.parametrize("mix", [*MIXES, "pretrain"])
def test_every_row_says_something(mix):
    rows = embedded_rows(mix)
    assert all(row.completion for row in rows)
    assert all(bool(row.prompt) == (mix != "pretrain") for row in rows)


# --- different --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", MIXES)
def test_all_prompts_are_different_after_normalisation(mix):
    counts = Counter(words(row.prompt) for row in embedded_rows(mix))
    assert {prompt: n for prompt, n in counts.items() if n > 1} == {}


def test_all_passages_are_different_after_normalisation():
    texts = [words(row.completion) for row in embedded_rows("pretrain")]
    assert len(set(texts)) == len(texts)


def test_dolly_has_its_eight_categories():
    assert {row.task for row in embedded_rows("dolly")} == DOLLY_CATEGORIES


def test_flan_has_many_tasks_and_both_submixes():
    assert len({row.task for row in embedded_rows("flanv2")}) >= 12
    assert {row["submix"] for row in raw("flanv2")} == {"cot", "niv2"}


def test_a_context_is_given_where_the_category_needs_one():
    """Dolly's closed questions, extractions and summaries are about a given text."""
    for row in raw("dolly"):
        if row["category"] in ("closed_qa", "information_extraction", "summarization"):
            assert row["context"], row["instruction"]


# --- nobody else's ----------------------------------------------------------------------------------


def texts_of(value):
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


def real_rows(path: Path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.mark.slow
def test_no_embedded_prompt_or_passage_occurs_in_the_real_files(data_dir):
    """Neither as a row's prompt nor as any text in any column, in lower case without punctuation."""
    real = FolderSource(data_dir)
    prompts = (row.prompt or "" for mix in MIXES for row in real.mix(mix))
    columns = (
        text for path in sorted(data_dir.glob("*.jsonl.gz")) for row in real_rows(path) for text in texts_of(row)
    )
    ours = {words(row.prompt or row.completion) for mix in (*MIXES, "pretrain") for row in embedded_rows(mix)}
    ours |= {words(row["input"]) for row in raw("medical")}
    longest = max(map(len, ours))
    theirs = {words(text) for text in chain(prompts, columns) if len(text) < 40 * longest}
    assert len(theirs) > 50_000
    assert ours & theirs == set()


@pytest.mark.slow
def test_no_embedded_question_occurs_in_mmlu_nor_the_other_way_round(data_dir):
    """Of 9 words or more, in lower case without punctuation, anywhere in the other's text."""
    mmlu = [words(row["question"]) for row in real_rows(data_dir / "mmlu_test.jsonl.gz")]
    rows = [row for mix in (*MIXES, "pretrain") for row in embedded_rows(mix)]
    ours = [words(f"{row.prompt or ''} {row.completion}") for row in rows]
    sentences = (words(s) for row in rows for s in re.findall(r"[^.?!:\n]+\?", f"{row.prompt or ''}\n{row.completion}"))
    questions = {
        *(words(row.prompt or "") for row in rows),
        *sentences,
        *map(words, (r["input"] for r in raw("medical"))),
    }
    assert len(mmlu) == 14_042
    assert not contained([q for q in mmlu if len(q) >= N], ours)
    assert not contained([q for q in questions if len(q) >= N], mmlu)


def contained(needles, haystacks):
    """The needles, of N words or more, that occur in a haystack."""
    needles_by_start = {}
    for needle in needles:
        needles_by_start.setdefault(needle[:N], []).append(needle)
    return [
        needle
        for haystack in haystacks
        for i, run in enumerate(runs(haystack))
        for needle in needles_by_start.get(run, ())
        if haystack[i : i + len(needle)] == needle
    ]


def test_the_search_for_contained_questions_finds_them():
    text = words("One two three four five six seven eight nine ten eleven twelve.")
    inside = [text[1:], text[2:11]]
    outside = [(*text[:9], "x"), (*text[1:10], "twelve")]
    assert contained(inside + outside, [text]) == inside
