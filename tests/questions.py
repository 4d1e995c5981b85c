"""Fewer of the embedded MMLU questions, for tests that need real answers and not all of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from floe_bench.tasks.evals import _mmlu

EVERY = 5
"""One subject in five: 12 of 57, of every category. Twelve clusters are enough for any test that a table makes."""


def few_subjects() -> AbstractContextManager:
    """The embedded questions of one subject in five; the others take four fifths of a tiny evaluation's time."""
    questions = list(_mmlu.embedded())
    kept = set(sorted({question["subject"] for question in questions})[::EVERY])

    def embedded() -> Iterator[dict[str, Any]]:
        return (question for question in questions if question["subject"] in kept)

    return patch.object(_mmlu, "embedded", embedded)
