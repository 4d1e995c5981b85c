"""Multiple-choice scoring by lm-eval: its prompts, its evaluator, our items and one line per answer.

The only module that imports lm_eval, and only where it is used. Reference: EleutherAI
lm-evaluation-harness 0.4.13, `lm_eval.evaluator.evaluate` over `lm_eval.models.huggingface.HFLM`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.score import Score, Scored

if TYPE_CHECKING:
    import pandas as pd

N_CHOICES = 4

FAMILIES = {
    "mmlu": ("default", "mmlu_{subject}"),
    "mmlu_continuation": ("continuation", "mmlu_{subject}_continuation"),
}
"""lm-eval's family of tasks -> its folder under lm_eval/tasks/mmlu, and the name of a subject's task."""

DOC_COLUMNS = ("question", "subject", "choices", "answer")
"""What one row of the hub's cais/mmlu holds."""


def multiple_choice(
    model: Any,
    tokenizer: Any,
    task: str,
    items: Sequence[dict[str, Any]],
    num_fewshot: int,
    batch_size: int,
    max_length: int,
) -> Scored:
    """Score `items` under the prompts of lm-eval's own MMLU tasks, one task per subject.

    `model` is a loaded causal LM, bare or inside a PeftModel, on any device; `task` one of FAMILIES;
    `items` dicts of subject, question, choices (4 strings), answer (0-3) and split: "test" items are
    scored, a subject's first `num_fewshot` "dev" items are its exemplars. `batch_size` is in sequences,
    `max_length` in tokens: longer prompts lose tokens on the left, as lm-eval does it.

    Log-probabilities are summed over a choice's tokens, in nats, from a float32 softmax (lm-eval's
    `softmax_dtype`; in bfloat16 the sums of long choices would be rounded to steps of 0.25).

    Returns `items`, one line per test item in the order given: item (hash of subject, question and
    choices), subject, answer, predicted, logprob_0..3, and for the continuation form predicted_norm, the
    argmax of log-probability per character (lm-eval's acc_norm). Metrics: acc, acc_norm (continuation),
    truncated (items whose prompt was cut). `tokens` counts what went through the model, padding left out: what
    a subject's prompts begin with in common (header and exemplars) once a subject, the rest of each prompt once,
    and a choice's own words. A prompt that is cut shares no beginning. Where `evaluation.loglikelihood.supports`
    does not know the model, stock HFLM reads every distinct sequence by itself: a prompt once in the letter
    form, once per choice in the continuation form.

    Raises ValueError on an unknown task or subject, malformed items or too few exemplars, and RuntimeError
    where a log-probability is not finite or lm-eval's accuracy disagrees with the answers returned.
    """
    _check_items(items, num_fewshot)
    test = [item for item in items if item["split"] == "test"]
    with _quiet():
        from lm_eval.evaluator import evaluate

        started = time.perf_counter()
        tasks = _tasks(task, items, num_fewshot)
        was_training = model.training
        try:
            lm = _language_model(model, tokenizer, batch_size, max_length)
            results: Any = evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
        finally:
            model.train(was_training)
        seconds = time.perf_counter() - started

    answers = _answers(test, results["samples"], FAMILIES[task][1])
    metrics = {
        metric: _checked_mean(answers, metric, column, results["results"], FAMILIES[task][1])
        for metric, column in (("acc", "predicted"), ("acc_norm", "predicted_norm"))
        if column in answers
    }
    metrics["truncated"] = float(lm.truncated_items)
    score = Score(metrics=metrics, chance=1 / N_CHOICES, n_items=len(test), tokens=lm.tokens, seconds=seconds)
    return Scored(score=score, items=answers)


def _check_items(items: Sequence[dict[str, Any]], num_fewshot: int) -> None:
    """Raises ValueError where lm-eval would stop late, or not at all."""
    for item in items:
        if item["split"] not in ("test", "dev"):
            raise ValueError(f"expected the split 'test' or 'dev', got {item['split']!r}")
        if len(item["choices"]) != N_CHOICES or not all(item["choices"]):
            raise ValueError(f"expected {N_CHOICES} non-empty choices, got {item['choices']!r}")
        if item["answer"] not in range(N_CHOICES):
            raise ValueError(f"expected an answer of 0 to {N_CHOICES - 1}, got {item['answer']!r}")
    tested = dict.fromkeys(item["subject"] for item in items if item["split"] == "test")
    if not tested:
        raise ValueError("there is no item to score: expected at least one with split 'test'")
    exemplars = Counter(item["subject"] for item in items if item["split"] == "dev")
    for subject in tested:
        if exemplars[subject] < num_fewshot:
            raise ValueError(f"{num_fewshot} exemplars wanted, but {subject} has {exemplars[subject]} dev items")


def _tasks(family: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> dict[str, Any]:
    """lm-eval's own task object for each subject, its dataset replaced by our items.

    The templates are read from the installed package; only the family's folder is indexed, because
    lm-eval's default of indexing every task that it ships takes seconds.
    """
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    if family not in FAMILIES:
        raise ValueError(f"unknown task {family!r}: expected one of {', '.join(FAMILIES)}")
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    folder, pattern = FAMILIES[family]
    manager = TaskManager(include_path=Path(spec.origin).parent / "tasks" / "mmlu" / folder, include_defaults=False)

    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for item in items:
        subject = rows.setdefault(item["subject"], {"test": [], "dev": []})
        subject[item["split"]].append({column: item[column] for column in DOC_COLUMNS})
    members = []
    for subject, splits in rows.items():
        name = pattern.format(subject=subject)
        if name not in manager.all_subtasks:
            near = difflib.get_close_matches(name, manager.all_subtasks, n=3)
            raise ValueError(f"lm-eval has no task {name!r}; nearest: {', '.join(near) or 'none'}")
        if not splits["test"]:
            continue
        dataset = {"test": Dataset.from_list(splits["test"]), "dev": splits["dev"]}

        def ours(dataset: dict[str, Any] = dataset, **_: Any) -> dict[str, Any]:
            return dataset

        members.append({"task": name, "custom_dataset": ours, "num_fewshot": num_fewshot})
    # Only as a group's member does lm-eval lay our keys over the subject's own YAML.
    return manager.load([{"group": f"{family}_items", "task": members}])["tasks"]


def _language_model(model: Any, tokenizer: Any, batch_size: int, max_length: int) -> Any:
    """What answers lm-eval's requests; it counts `tokens` and `truncated_items` as it goes.

    Models that `evaluation.loglikelihood` supports are read by it, subject by subject; all others by stock HFLM.
    """
    from lm_eval.models import huggingface

    from floe_bench.harness.evaluation.loglikelihood import loglikelihoods, supports

    HFLM: Any = huggingface.HFLM  # the decorator that registers it hides its type

    class SubjectLM(HFLM):
        tokens = 0
        truncated_items = 0

        def loglikelihood(self, requests, disable_tqdm=True):
            self._subjects = [request.task_name for request in requests]
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, disable_tqdm=True, override_bs=None):
            pairs = [(context, continuation) for _, context, continuation in requests]
            cut = [len(context) + len(continuation) - 1 > self.max_length for context, continuation in pairs]
            self.truncated_items += sum(any(cut[i : i + N_CHOICES]) for i in range(0, len(cut), N_CHOICES))
            if supports(model):
                by_subject = groupby(zip(self._subjects, pairs, strict=True), key=itemgetter(0))
                groups = [[pair for _, pair in subject] for _, subject in by_subject]
                answers, tokens = loglikelihoods(model, groups, max_length, batch_size)
                self.tokens += tokens
                return answers
            # HFLM reads context + continuation without its last token, and equal sequences once.
            distinct = {(*context, *continuation[:-1]) for context, continuation in pairs}
            self.tokens += sum(min(len(sequence), max_length) for sequence in distinct)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    return SubjectLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=max_length,
        softmax_dtype="float32",
    )


def _answers(test: list[dict[str, Any]], samples: dict[str, list[dict[str, Any]]], pattern: str) -> pd.DataFrame:
    """One line per test item, in the order of `test`, from lm-eval's logged samples."""
    import numpy as np
    import pandas as pd

    in_order = {task: iter(sorted(rows, key=lambda sample: sample["doc_id"])) for task, rows in samples.items()}
    lines = []
    for item in test:
        sample = next(in_order[pattern.format(subject=item["subject"])])
        logprobs = np.array([logprob for logprob, _ in sample["filtered_resps"]])
        if not np.isfinite(logprobs).all():
            raise RuntimeError(f"the model's log-probabilities are not finite on an item of {item['subject']}")
        line = {
            "item": _item_id(item),
            "subject": item["subject"],
            "answer": item["answer"],
            "predicted": int(np.argmax(logprobs)),
        }
        if "acc_norm" in sample["metrics"]:
            line["predicted_norm"] = int(np.argmax(logprobs / [len(choice) for choice in item["choices"]]))
        lines.append(line | {f"logprob_{i}": np.float32(logprobs[i]) for i in range(N_CHOICES)})
    return pd.DataFrame(lines)


def _item_id(item: dict[str, Any]) -> str:
    """The first 16 hex digits of sha256 over subject, question and choices."""
    content = json.dumps([item["subject"], item["question"], list(item["choices"])], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _checked_mean(answers: pd.DataFrame, metric: str, predicted: str, results: dict[str, Any], pattern: str) -> float:
    """`metric` pooled over all items; raises RuntimeError where a subject's is not what lm-eval reports."""
    right: dict[str, list[bool]] = defaultdict(list)
    for subject, answer, prediction in zip(answers["subject"], answers["answer"], answers[predicted], strict=True):
        right[subject].append(answer == prediction)
    for subject, hits in right.items():
        theirs = results[pattern.format(subject=subject)][f"{metric},none"]
        if not math.isclose(fmean(hits), theirs, abs_tol=1e-9):
            raise RuntimeError(f"{metric} of {subject}: lm-eval says {theirs}, the kept answers say {fmean(hits)}")
    return fmean(chain.from_iterable(right.values()))


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval without its log lines and without the one progress bar that has no switch."""
    import lm_eval.api.task as task_module
    from tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task_module.tqdm
    logger.setLevel(logging.ERROR)
    task_module.tqdm = NoBar
    try:
        yield
    finally:
        logger.setLevel(level)
        task_module.tqdm = bar
