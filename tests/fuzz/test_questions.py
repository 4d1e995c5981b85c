"""Files of questions with a few bytes changed are refused by file, or every question in them can be asked."""

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given

from floe_bench.harness.data.sources import FolderSource
from floe_bench.tasks.evals import _mmlu

from .material import answer, changed, changes

SUBJECTS = ("anatomy", "virology")
QUESTIONS = [
    {"subject": subject, "question": f"What of {i}?", "choices": ["é", "b b", "3", "None of these"], "answer": i % 4}
    for subject in SUBJECTS
    for i in range(6)
]


def lines(questions: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions).encode()


def test_a_changed_file_is_refused_or_holds_questions_alone(tmp_path):
    settings = SimpleNamespace(eval=SimpleNamespace(questions_per_subject=None))
    inputs: Any = SimpleNamespace(source=FolderSource(tmp_path), settings=settings)
    test, dev = tmp_path / "mmlu_test.jsonl", tmp_path / "mmlu_dev.jsonl"
    dev.write_bytes(lines(QUESTIONS))

    @given(changes)
    def holds(by):
        test.write_bytes(changed(lines(QUESTIONS), by))
        items = answer(lambda: _mmlu.items(inputs, num_fewshot=5), "mmlu_")
        for item in items or ():
            assert isinstance(item["question"], str) and item["question"].strip()
            choices = item["choices"]
            assert len(choices) == 4 and all(isinstance(choice, str) and choice.strip() for choice in choices)
            assert type(item["answer"]) is int and 0 <= item["answer"] <= 3
            assert item["subject"] in SUBJECTS  # others have no exemplars

    holds()
