"""MMLU: what a subject's prompts share is read once, against stock lm-eval at its best batch size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._real import smollm2_session
from floe_bench.harness.contracts.score import Scored
from floe_bench.harness.evaluation.multiple_choice import multiple_choice
from floe_bench.harness.run.session import Session
from floe_bench.tasks.evals import _mmlu

BATCH_SIZES = (1, 4, 8)
"""Sizes that stock lm-eval tries once on `TRIED` questions. It then runs with the fastest."""
TRIED = 6
MAX_LENGTH = 2048

FORMS = {
    "5-shot": ("mmlu", 5, 4, 16, 6.0),
    "0-shot": ("mmlu", 0, 8, 12, 1.8),
    "continuation": ("mmlu_continuation", 0, 8, 6, 1.8),
}
"""Form -> lm-eval's task, exemplars, subjects spread over the alphabet, questions of each, target in float32.

MMLU has 57 subjects of 246 questions on average, which share one reading of header and exemplars. A few stand for
them here, so the gain is understated.
"""


def run(bench: Bench) -> Iterator[Measurement]:
    for dtype in ("float32", "bfloat16"):
        shared = smollm2_session(
            bench, model__dtype=dtype, eval__questions_per_subject=max(form[3] for form in FORMS.values())
        )
        for form in FORMS:
            yield _compare(bench, shared, form, dtype)


def _compare(bench: Bench, shared: Session, form: str, dtype: str) -> Measurement:
    task, shots, subjects, questions, target = FORMS[form]
    items = _items(shared, subjects, questions, shots)
    score = partial(_score, shared, task, shots)
    test = [item for item in items if item["split"] == "test"]
    bench.progress(f"{form}, {dtype}: {len(test)} questions")
    few = [item for item in items if item["split"] == "dev"] + test[:: max(1, len(test) // TRIED)]
    tried = {size: score(few, size, stock=True).score.seconds for size in BATCH_SIZES}
    best = min(tried, key=lambda size: tried[size])
    other = 1 if best != 1 else 8
    scored: dict[str, Scored] = {}

    def side(name: str, batch_size: int, stock: bool) -> None:
        scored[name] = score(items, batch_size, stock=stock)

    values = bench.alternate(
        {
            "stock": partial(side, "stock", best, stock=True),
            "ours": partial(side, "ours", shared.settings.eval.batch_size, stock=False),
        },
        # A round of stock's five-shot form takes a minute, and its ratio hardly varies.
        repeats=1 if shots else min(bench.repeats, 3),
        warm_up=False,  # trying the batch sizes was a warm-up
    )
    notes = {
        "questions": len(test),
        "subjects": len({item["subject"] for item in items}),
        "stock_batch_size": best,
        "stock_seconds_by_batch_size": {str(size): seconds for size, seconds in tried.items()},
        "tokens": {name: result.score.tokens for name, result in scored.items()},
        "accuracy": {name: result.score.metrics["acc"] for name, result in scored.items()},
        **_difference(scored["stock"], scored["ours"]),
    }
    if dtype == "bfloat16":
        side("other", other, stock=True)
        notes["stock_between_batch_sizes"] = {"sizes": [best, other], **_difference(scored["stock"], scored["other"])}
    return Measurement(
        what=f"{form}, {dtype}, {notes['subjects']} subjects, {len(test)} questions",
        values=values,
        ratio=("stock", "ours"),
        at_least=target if dtype == "float32" else None,
        notes=notes,
    )


def _score(shared: Session, task: str, shots: int, items: list[dict[str, Any]], batch_size: int, stock: bool) -> Scored:
    """Score by lm-eval. Where `stock`, its own HFLM reads the model, else our reader does."""
    return multiple_choice(shared.base, shared.tokenizer, task, items, shots, batch_size, MAX_LENGTH, stock)


def _items(shared: Session, subjects: int, questions: int, shots: int) -> list[dict[str, Any]]:
    """Return questions and exemplars. The embedded questions are each other's exemplars."""
    embedded = shared.source.kind == "embedded"
    inputs: Any = SimpleNamespace(source=shared.source, settings=shared.settings)
    found = _mmlu.items(inputs, num_fewshot=0 if embedded else shots)
    if shots and embedded:
        found += [{**item, "split": "dev"} for item in _mmlu.embedded()]
    by_subject: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for item in found:
        by_subject.setdefault(item["subject"], {"test": [], "dev": []})[item["split"]].append(item)
    whole = [splits for splits in by_subject.values() if not shots or len(splits["dev"]) >= shots]
    chosen = [whole[i * len(whole) // subjects] for i in range(min(subjects, len(whole)))]
    return [item for splits in chosen for item in splits["test"][:questions] + splits["dev"][:shots]]


def _difference(a: Scored, b: Scored) -> dict[str, float]:
    """Return the share of changed answers, and the largest difference of a choice's log-probability."""
    columns = [column for column in a.items if column.startswith("logprob_")]
    return {
        "changed": float(np.mean(a.items["predicted"].to_numpy() != b.items["predicted"].to_numpy())),
        "largest_difference": float(np.abs(a.items[columns].to_numpy() - b.items[columns].to_numpy()).max()),
    }
