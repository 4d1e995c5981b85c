"""Overlap of benchmark items with training rows, against a search for substrings."""

import random
import re

import pytest

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data.contamination import overlapping

QUESTION = "Which of these organs filters the blood and makes urine in the human body every day"


def row(prompt: str, completion: str = "") -> Row:
    return Row(prompt, completion, "domain")


def item(question: str, *choices: str) -> dict:
    return {"subject": "anatomy", "question": question, "choices": list(choices), "answer": 0, "split": "test"}


def by_substrings(texts: list[str], rows: list[str], n: int) -> list[int]:
    """The definition, word for word: some window of the item is a substring of some row, at word limits."""

    def padded(text: str) -> str:
        return " " + " ".join(re.sub(r"[\W_]", " ", text.casefold()).split()) + " "

    def windows(text: str) -> list[str]:
        words = padded(text).split()
        return [f" {' '.join(words[i : i + n])} " for i in range(max(1, len(words) - n + 1))] if words else []

    return [i for i, text in enumerate(texts) if any(w in padded(row) for w in windows(text) for row in rows)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_search_for_substrings(n, seed):
    draw = random.Random(seed)
    vocabulary = ["a", "B", "ab", "c-d", "É", "42", "don't", "x_y"] if n < 13 else ["a", "b"]

    def text(most: int) -> str:
        return draw.choice(["", ", ", "!"]).join(f"{draw.choice(vocabulary)} " for _ in range(draw.randint(0, most)))

    items = [text(2 * n + 2) for _ in range(40)]
    rows = [(text(10), text(20)) for _ in range(8)]
    expected = by_substrings(items, [f"{prompt} {completion}" for prompt, completion in rows], n)
    assert overlapping([{"text": text} for text in items], [row(*pair) for pair in rows], n) == expected
    assert n == 13 or len(expected) > 0


def test_thirteen_shared_words_count_and_twelve_do_not():
    words = QUESTION.split()
    items = [item(QUESTION, "kidney", "liver", "heart", "lung")]
    assert overlapping(items, [row("said: " + " ".join(words[:13]))]) == [0]
    assert overlapping(items, [row("said: " + " ".join(words[:12]))]) == []


def test_case_and_punctuation_do_not_hide_an_item_and_answers_in_the_completion_count():
    rows = [row("unrelated"), row(QUESTION.upper().replace(" ", ", "), "kidney; liver")]
    assert overlapping([item("Another question altogether", "yes", "no"), item(QUESTION, "kidney")], rows) == [1]


def test_a_short_item_counts_only_where_all_of_it_occurs():
    rows = [row("Define pH.", "It is acidity.")]
    items = [item("Define pH", "It is acidity"), item("Define pH", "It is warmth"), {"text": "..."}]
    assert overlapping(items, rows) == [0]


def test_words_do_not_run_on_from_one_row_into_the_next():
    words = QUESTION.split()
    assert overlapping([item(QUESTION)], [row(" ".join(words[:8])), row(" ".join(words[8:]))]) == []


def test_subject_and_domain_are_not_text():
    rows = [row("anatomy")]
    assert overlapping([{"subject": "anatomy", "text": "something else"}], rows) == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least 1 word"):
        overlapping([], [], n=0)
    with pytest.raises(ValueError, match="expected one of question, choices"):
        overlapping([{"image": "x"}], [])
