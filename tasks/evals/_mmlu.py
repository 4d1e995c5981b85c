"""MMLU (Hendrycks et al., arXiv 2009.03300): its questions, categories and scores."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from floe_bench import EvaluationInputs, Score, Scored, UsageError
from floe_bench.harness.errors import unknown

COLUMNS = {"subject": str, "question": str, "choices": list, "answer": int}

MEDICAL = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""The MMLU subjects in MultiMedQA (Singhal et al., arXiv 2212.13138)."""


LEAST_DIFFERENT = 3
"""Of a question's four choices. Nine of the 14,042 published questions repeat one."""


def items(inputs: EvaluationInputs, num_fewshot: int) -> list[dict[str, Any]]:
    """Return the questions to score (split "test") and, for a few-shot form, the exemplars (split "dev").

    The embedded questions are those of lm-eval's wheel. `questions_per_subject` keeps a subject's first
    questions by content hash. They are the same on every machine and from every source.

    Raises:
        UsageError: a row is no MMLU question, there is none, a subject has too few exemplars, or exemplars are wanted
            of the embedded questions, which are themselves the dev rows.
    """
    source = inputs.source
    if source.kind == "embedded":
        if num_fewshot:
            raise UsageError(
                "few-shot MMLU needs the dev questions as exemplars, and they are all that is embedded: "
                "give --data-dir, or choose the 0-shot form"
            )
        test, dev = list(embedded()), []
    else:
        test = _read(inputs, "test")
        dev = _read(inputs, "dev") if num_fewshot else []
    if not test:
        raise UsageError("mmlu_test holds no question")
    exemplars = Counter(row["subject"] for row in dev)
    for subject in sorted({row["subject"] for row in test}):
        if exemplars[subject] < num_fewshot:
            raise UsageError(
                f"mmlu_dev holds {exemplars[subject]} questions of {subject}, and {num_fewshot} are shown before each "
                "question of mmlu_test: add some, or choose the 0-shot form"
            )
    return _first_questions(test, inputs.settings.eval.questions_per_subject) + dev


def _read(inputs: EvaluationInputs, split: str) -> list[dict[str, Any]]:
    """Read the rows of a split. Raises UsageError for a row that is no MMLU question."""
    rows = inputs.source.read(
        file=f"mmlu_{split}", hub="cais/mmlu", columns=COLUMNS, complaint=_complaint, name="all", split=split
    )
    return [{column: row[column] for column in COLUMNS} | {"split": split} for row in rows]


def _complaint(row: dict[str, Any]) -> str | None:
    """Say why the row is no MMLU question, if it is none."""
    if row["subject"] not in _subjects():
        return str(unknown("subject", row["subject"], _subjects()))
    if not row["question"].strip():
        return "the question is empty"
    choices = row["choices"]
    if len(choices) != 4 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return f"four choices of text were expected, none empty, not {str(choices)[:200]}"
    if len({choice.strip() for choice in choices}) < LEAST_DIFFERENT:
        return f"the choices {str(choices)[:200]} are the same"
    if row["answer"] not in range(4):
        return f"an answer from 0 to 3 was expected, not {row['answer']}"
    return None


@cache
def _subjects() -> frozenset[str]:
    return frozenset(categories())


def _first_questions(rows: list[dict[str, Any]], n: int | None) -> list[dict[str, Any]]:
    """Return `n` questions of each subject (None takes all), ordered by subject, then by content hash."""
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["subject"], _content_hash(row))):
        by_subject.setdefault(row["subject"], []).append(row)
    return [row for subject in by_subject.values() for row in subject[:n]]


def _content_hash(row: dict[str, Any]) -> str:
    return hashlib.sha256("\n".join([row["question"], *row["choices"]]).encode()).hexdigest()


def embedded() -> Iterator[dict[str, Any]]:
    """Yield the MMLU dev questions in lm-eval's wheel, as items to score.

    They are the exemplars of its chain-of-thought task. Each holds a question with its choices "(A) ... (D) ...",
    and a target that ends in the answer. 0.4.13 holds 282 of the 285; one question has five choices and is left out.
    """
    for subject in _configs("flan_cot_fewshot"):
        for sample in subject["fewshot_config"]["samples"]:
            question, *labelled = re.split(r"\s*\(([A-E])\)\s*", sample["question"].strip())
            answer = re.search(r"answer is \(([A-E])\)\.?\s*$", sample["target"])
            if labelled[::2] != list("ABCD") or answer is None:
                continue
            yield {
                "subject": subject["dataset_name"],
                "question": question,
                "choices": labelled[1::2],
                "answer": "ABCD".index(answer[1]),
                "split": "test",
            }


def categories() -> dict[str, str]:
    """Return subject -> stem, humanities, social_sciences or other, from the tags in lm-eval's task files."""
    return {
        subject["dataset_name"]: subject["tag"].removeprefix("mmlu_").removesuffix("_tasks")
        for subject in _configs("default")
    }


def _configs(folder: str) -> Iterator[dict[str, Any]]:
    """Yield the subjects' YAML files in lm-eval's wheel, found without importing it."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UsageError("MMLU needs the package lm-eval, which is not installed")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted((Path(spec.origin).parent / "tasks" / "mmlu" / folder).glob("mmlu_*.yaml")):
        yield yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def score(inputs: EvaluationInputs, items: list[dict[str, Any]], task: str, num_fewshot: int) -> Scored:
    """Return lm-eval's score of `items` under its `task`, with the metrics of `summarise`."""
    scored = inputs.multiple_choice(task, items, num_fewshot)
    return Scored(score=summarise(scored), items=scored.items)


def summarise(scored: Scored) -> Score:
    """Add acc_<category>, acc_medical and acc_subject_<name>, from the same answers.

    Each pools over items, as lm-eval's group scores do. A category or subset without items has no metric.
    """
    category = categories()
    answers = scored.items
    right: dict[str, list[bool]] = defaultdict(list)
    for subject, answer, predicted in zip(answers["subject"], answers["answer"], answers["predicted"], strict=True):
        pools = [f"acc_{category[subject]}", f"acc_subject_{subject}"]
        for pool in [*pools, "acc_medical"] if subject in MEDICAL else pools:
            right[pool].append(answer == predicted)
    metrics = {pool: fmean(hits) for pool, hits in sorted(right.items())}
    return scored.score.model_copy(update={"metrics": scored.score.metrics | metrics})
