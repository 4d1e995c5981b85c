"""Multiple-choice scoring by lm-eval: its prompts and evaluator, our items, one line per answer.

Only this module imports lm_eval, inside its functions. Reference: EleutherAI lm-evaluation-harness 0.4.13,
`lm_eval.evaluator.evaluate` over `lm_eval.models.huggingface.HFLM`.
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
from functools import cache
from importlib.util import find_spec
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from floe_bench.harness.contracts.score import Score, Scored
from floe_bench.harness.data.text_tokens import TextTokens

if TYPE_CHECKING:
    import pandas as pd

N_CHOICES = 4

FAMILIES = {
    "mmlu": ("default", "mmlu_{subject}"),
    "mmlu_continuation": ("continuation", "mmlu_{subject}_continuation"),
}
"""lm-eval's family of tasks -> its folder under lm_eval/tasks/mmlu, and the name pattern of a subject's task."""

DOC_COLUMNS = ("question", "subject", "choices", "answer")
"""The columns of the hub's cais/mmlu."""


def multiple_choice(
    model: Any,
    tokenizer: Any,
    task: str,
    items: Sequence[dict[str, Any]],
    num_fewshot: int,
    batch_size: int,
    max_length: int,
    stock: bool = False,
) -> Scored:
    """Score `items` under the prompts of lm-eval's own MMLU tasks, one task per subject.

    Text is read as text: the name of a control token in a question is no token, and nothing is added at its end
    (`data.text_tokens`). Log-probabilities are summed over a choice's tokens, in nats, from a float32 softmax
    (lm-eval's `softmax_dtype`). bfloat16 would round the sums of long choices to steps of 0.25.

    Args:
        model: a loaded causal LM, bare or inside a PeftModel, on any device.
        task: one of FAMILIES.
        items: dicts of subject, question, choices (4 strings), answer (0-3) and split. "test" items are scored.
            A subject's first `num_fewshot` "dev" items are its exemplars.
        batch_size: in sequences.
        max_length: in tokens. Longer prompts lose tokens on the left, as in lm-eval.
        stock: whether stock HFLM reads the model in any case.

    Returns:
        `items`, one line per test item in the order given: item (hash of subject, question and choices), subject,
        answer, predicted, logprob_0..3. The continuation form adds predicted_norm, the argmax of log-probability
        per character (lm-eval's acc_norm).
        Metrics: acc, acc_norm (continuation), truncated (items whose prompt was cut).
        `tokens` counts what went through the model, without padding. The common beginning of a subject's prompts
        (header and exemplars) counts once a subject, the rest of each prompt once, and a choice's own words. A
        prompt that is cut shares no beginning. Where `evaluation.loglikelihood.supports` refuses the model, stock
        HFLM reads every distinct sequence by itself. That is a prompt once in the letter form, and once per choice
        in the continuation form.

    Raises:
        ValueError: an unknown task or subject, malformed items or too few exemplars, or a tokenizer that gives
            different choices the same tokens.
        RuntimeError: a log-probability is not finite, the choices of most items have equal ones, or lm-eval's
            accuracy disagrees with the answers returned.
    """
    _check_items(items, num_fewshot)
    test = [item for item in items if item["split"] == "test"]
    with _quiet():
        from lm_eval.evaluator import evaluate

        started = time.perf_counter()
        tasks = _tasks(task, items, num_fewshot)
        was_training = model.training
        try:
            lm = _language_model(model, tokenizer, batch_size, max_length, stock)
            results: Any = evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
        finally:
            model.train(was_training)
        seconds = time.perf_counter() - started

    answers = _answers(test, results["samples"], FAMILIES[task][1])
    _check_ties(answers)
    metrics = {
        metric: _checked_mean(answers, metric, column, results["results"], FAMILIES[task][1])
        for metric, column in (("acc", "predicted"), ("acc_norm", "predicted_norm"))
        if column in answers
    }
    metrics["truncated"] = float(lm.truncated_items)
    score = Score(metrics=metrics, chance=1 / N_CHOICES, n_items=len(test), tokens=lm.tokens, seconds=seconds)
    return Scored(score=score, items=answers)


def _check_items(items: Sequence[dict[str, Any]], num_fewshot: int) -> None:
    """Raise ValueError for items on which lm-eval would fail late, or not at all."""
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
    """Return lm-eval's own task object for each subject, with our items as its dataset.

    The templates come from the installed package. Only the family's folder is indexed, because indexing all of
    lm-eval's tasks takes seconds.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable
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
        # A name in place of the fingerprint, which takes longer than all else here and serves a cache that is not used.
        dataset = {"test": Dataset(InMemoryTable.from_pylist(splits["test"]), fingerprint=name), "dev": splits["dev"]}

        def our_dataset(dataset: dict[str, Any] = dataset, **_: Any) -> dict[str, Any]:
            return dataset

        members.append({"task": name, "custom_dataset": our_dataset, "num_fewshot": num_fewshot})
    # lm-eval merges our keys into the subject's own YAML only for members of a group.
    return manager.load([{"group": f"{family}_items", "task": members}])["tasks"]


def _language_model(model: Any, tokenizer: Any, batch_size: int, max_length: int, stock: bool) -> Any:
    """Return the model that answers lm-eval's requests. It counts `tokens` and `truncated_items` as it goes.

    `evaluation.loglikelihood` reads the models that it supports, subject by subject. Stock HFLM reads the others.
    With `stock` it reads all.
    """
    from lm_eval.models import huggingface

    from floe_bench.harness.evaluation.loglikelihood import loglikelihoods, supports

    HFLM: Any = huggingface.HFLM  # the decorator that registers it hides its type

    text = TextTokens(tokenizer)

    class SubjectLM(HFLM):
        tokens = 0
        truncated_items = 0

        def tok_encode(self, string, add_special_tokens=None, left_truncate_len=None, **_):
            ids = text.encode(string, add_special_tokens is not False)
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def loglikelihood(self, requests, disable_tqdm=True):
            self._subjects = [request.task_name for request in requests]
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, disable_tqdm=True, override_bs=None):
            _check_choices(requests)
            pairs = [(context, continuation) for _, context, continuation in requests]
            cut = [len(context) + len(continuation) - 1 > self.max_length for context, continuation in pairs]
            self.truncated_items += sum(any(cut[i : i + N_CHOICES]) for i in range(0, len(cut), N_CHOICES))
            if supports(model) and not stock:
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


def _check_choices(requests: Sequence[tuple[tuple[str, str], list[int], list[int]]]) -> None:
    """Raise ValueError where different choices of a question have the same tokens: their scores would be equal.

    requests: ((context, choice), tokens of the context, tokens of the choice), a question's choices in a row.
    """
    for start in range(0, len(requests), N_CHOICES):
        words: dict[tuple[int, ...], str] = {}
        for (_, choice), _, tokens in requests[start : start + N_CHOICES]:
            other = words.setdefault(tuple(tokens), choice)
            if other != choice or not tokens:
                raise ValueError(
                    f"the tokenizer gives the choices {other!r} and {choice!r} the same tokens {list(tokens)}: "
                    "it lacks these letters"
                )


def _answers(test: list[dict[str, Any]], samples: dict[str, list[dict[str, Any]]], pattern: str) -> pd.DataFrame:
    """Return one line per test item, in the order of `test`, from lm-eval's logged samples."""
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
    """Return the first 16 hex digits of sha256 over subject, question and choices."""
    content = json.dumps([item["subject"], item["question"], list(item["choices"])], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _check_ties(answers: pd.DataFrame) -> None:
    """Raise RuntimeError where the choices of most items have equal log-probabilities: then nothing was measured.

    A few such items are rounding: bfloat16 logits have 8 significant bits.
    """
    logprobs = answers[[f"logprob_{i}" for i in range(N_CHOICES)]]
    tied = int((logprobs.max(axis=1) == logprobs.min(axis=1)).sum())
    if 2 * tied > len(answers):
        raise RuntimeError(
            f"{tied} of {len(answers)} items have {N_CHOICES} equal log-probabilities: model or tokenizer cannot tell "
            "the choices apart"
        )


def _checked_mean(answers: pd.DataFrame, metric: str, predicted: str, results: dict[str, Any], pattern: str) -> float:
    """Return `metric` pooled over all items. Raises RuntimeError where a subject's differs from lm-eval's."""
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
    """Silence lm-eval's log lines and its one progress bar that has no switch. Compile each of its templates once.

    lm-eval compiles a subject's template anew for every question, three times at 2 ms.
    """
    import lm_eval.api.task as task_module
    from lm_eval.utils import env
    from tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task_module.tqdm
    logger.setLevel(logging.ERROR)
    task_module.tqdm = NoBar
    # It hides the class's own method, until it is deleted.
    env.from_string = cast("Any", cache(env.from_string))
    try:
        yield
    finally:
        del env.from_string
        logger.setLevel(level)
        task_module.tqdm = bar
