"""lm-eval's MMLU scoring, against forward passes written out here and against its stock tasks."""

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from floe_bench.harness.evaluation import loglikelihood
from floe_bench.harness.evaluation.multiple_choice import multiple_choice
from floe_bench.harness.model.base import byte_tokenizer

MAX_LENGTH = 2048


def item(subject, question, choices, answer, split="test"):
    return {"subject": subject, "question": question, "choices": choices, "answer": answer, "split": split}


ITEMS = [
    item("college_biology", "What folds a protein? ", ["heat", "a chaperone", "light", "zinc"], 1),
    item("anatomy", "Where is the hyoid bone?", ["neck", "knee", "wrist", "the inner ear"], 0),
    item("college_biology", "Which is a base?", ["adenine", "ATP", "haem", "actin"], 0),
    item("econometrics", "What is BLUE?", ["a colour", "an estimator", "a test", "a bound"], 1),
    item("anatomy", "How many ribs?", ["12", "20", "24", "26"], 2),
]
DEV = [item("college_biology", f"Exemplar {i}?", [f"w{i}", f"x{i}", f"y{i}", f"z{i}"], i % 4, "dev") for i in range(6)]


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config)


def score(model, tokenizer, items, task="mmlu", num_fewshot=0, batch_size=3, max_length=MAX_LENGTH):
    return multiple_choice(model, tokenizer, task, items, num_fewshot, batch_size, max_length)


def logprob(model, tokenizer, prompt, continuation):
    """log p(continuation | prompt), one forward pass, no padding."""
    model.eval()
    ids = tokenizer(prompt + continuation, return_tensors="pt").input_ids
    n = len(tokenizer(continuation).input_ids)
    with torch.no_grad():
        logits = model(ids).logits[0].float()
    return torch.log_softmax(logits, -1)[range(-n - 1, -1), ids[0, -n:]].sum().item()


def logprobs(scored):
    return scored.items[[f"logprob_{i}" for i in range(4)]].to_numpy()


def test_letter_form_0shot_is_the_forward_pass_of_the_prompt(model, tokenizer):
    scored = score(model, tokenizer, ITEMS[:1])
    prompt = (
        "The following are multiple choice questions (with answers) about college biology.\n\n"
        "What folds a protein?\nA. heat\nB. a chaperone\nC. light\nD. zinc\nAnswer:"
    )
    expected = [logprob(model, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
    assert logprobs(scored)[0] == pytest.approx(expected, abs=1e-4)
    assert logprobs(scored).dtype == "float32"
    assert scored.items.predicted[0] == expected.index(max(expected))
    assert scored.score.chance == 0.25
    assert "acc_norm" not in scored.score.metrics


def test_letter_form_5shot_puts_the_subjects_first_five_dev_rows_before(model, tokenizer):
    scored = score(model, tokenizer, [*ITEMS[:1], *DEV], num_fewshot=5)
    prompt = "The following are multiple choice questions (with answers) about college biology.\n\n"
    for i in range(5):
        prompt += f"Exemplar {i}?\nA. w{i}\nB. x{i}\nC. y{i}\nD. z{i}\nAnswer: {'ABCD'[i % 4]}\n\n"
    prompt += "What folds a protein?\nA. heat\nB. a chaperone\nC. light\nD. zinc\nAnswer:"
    expected = [logprob(model, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
    assert logprobs(scored)[0] == pytest.approx(expected, abs=1e-4)
    assert len(scored.items) == scored.score.n_items == 1


def test_continuation_form_sums_over_the_choices_own_words(model, tokenizer):
    scored = score(model, tokenizer, ITEMS[1:2], task="mmlu_continuation")
    prompt = "The following are questions (with answers) about anatomy.\n\nQuestion: Where is the hyoid bone?\nAnswer:"
    choices = ITEMS[1]["choices"]
    expected = [logprob(model, tokenizer, prompt, f" {choice}") for choice in choices]
    assert logprobs(scored)[0] == pytest.approx(expected, abs=1e-4)
    per_character = [total / len(choice) for total, choice in zip(expected, choices, strict=True)]
    assert scored.items.predicted[0] == expected.index(max(expected))
    assert scored.items.predicted_norm[0] == per_character.index(max(per_character))
    assert scored.items.predicted[0] != scored.items.predicted_norm[0], "the two must differ to be told apart"


def test_items_keep_their_order(model, tokenizer):
    scored = score(model, tokenizer, [*DEV, *ITEMS])
    assert list(scored.items.subject) == [item["subject"] for item in ITEMS]
    assert list(scored.items.answer) == [item["answer"] for item in ITEMS]
    for item, together in zip(ITEMS, logprobs(scored), strict=True):
        assert together == pytest.approx(logprobs(score(model, tokenizer, [item]))[0], abs=1e-4)


@pytest.mark.parametrize("task", ["mmlu", "mmlu_continuation"])
@pytest.mark.parametrize("known", [True, False])
def test_the_tokenizers_padding_side_changes_nothing(model, tokenizer, task, known, monkeypatch):
    monkeypatch.setattr(loglikelihood, "supports", lambda _: known)
    right = logprobs(score(model, tokenizer, ITEMS, task=task, batch_size=1))
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    assert logprobs(score(model, tokenizer, ITEMS, task=task, batch_size=4)) == pytest.approx(right, abs=1e-4)


def test_accuracy_is_the_share_of_right_items(model, tokenizer):
    predicted = score(model, tokenizer, ITEMS).items.predicted
    right = (True, False, False, True, False)
    answered = [
        {**item, "answer": int(choice if hit else (choice + 1) % 4)}
        for item, choice, hit in zip(ITEMS, predicted, right, strict=True)
    ]
    assert score(model, tokenizer, answered).score.metrics["acc"] == pytest.approx(2 / 5)


def test_normalised_accuracy_is_the_share_of_right_normalised_items(model, tokenizer):
    items = score(model, tokenizer, ITEMS, task="mmlu_continuation").items
    answered = [{**item, "answer": int(choice)} for item, choice in zip(ITEMS, items.predicted_norm, strict=True)]
    metrics = score(model, tokenizer, answered, task="mmlu_continuation").score.metrics
    assert metrics["acc_norm"] == 1
    assert metrics["acc"] == sum(p == n for p, n in zip(items.predicted, items.predicted_norm, strict=True)) / 5
    assert metrics["acc"] < 1


def test_items_have_ids_of_their_content(model, tokenizer):
    again = [*ITEMS, {**ITEMS[0], "answer": 3}]
    ids = list(score(model, tokenizer, again).items["item"])
    assert len(set(ids)) == 5 and ids[5] == ids[0]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("task", ["mmlu", "mmlu_continuation"])
def test_tokens_are_those_that_the_model_reads(model, tokenizer, task, known, monkeypatch):
    monkeypatch.setattr(loglikelihood, "supports", lambda _: known)
    read = []
    model.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    scored = score(model, tokenizer, ITEMS, task=task, batch_size=1)
    assert scored.score.tokens == sum(read)
    if not known:
        # One prompt an item; or one a choice, where " 20", " 24" and " 26" share all that is read: 20 - 2.
        assert len(read) == (5 if task == "mmlu" else 18)
    assert score(model, tokenizer, ITEMS, task=task, batch_size=4).score.tokens == scored.score.tokens


def test_what_a_subjects_prompts_share_counts_once(model, tokenizer):
    def text(row, answer=""):
        lettered = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True))
        return f"{row['question'].strip()}\n{lettered}Answer:{answer}"

    biology = [row for row in ITEMS if row["subject"] == "college_biology"]
    header = "The following are multiple choice questions (with answers) about college biology.\n\n"
    exemplars = "".join(text(row, f" {'ABCD'[row['answer']]}\n\n") for row in DEV[:2])
    shared = header + exemplars + "Wh"  # "What folds ...", "Which is ..."
    # " A" is two bytes: the space is read, the letter is predicted.
    own = sum(len(header + exemplars + text(row)) - len(shared) + 1 for row in biology)
    assert score(model, tokenizer, [*biology, *DEV], num_fewshot=2).score.tokens == len(shared) + own


def test_long_prompts_lose_tokens_on_the_left_and_are_counted(model, tokenizer):
    long = item("anatomy", "x" * 100, ["a", "b", "c", "d"], 0)
    whole = score(model, tokenizer, [ITEMS[3], long])
    assert whole.score.metrics["truncated"] == 0
    cut = score(model, tokenizer, [ITEMS[3], long], max_length=180)
    assert cut.score.metrics["truncated"] == 1
    assert cut.score.tokens == score(model, tokenizer, [ITEMS[3]]).score.tokens + 180
    prompt = (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        + "x" * 100
        + "\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )
    expected = [logprob(model, tokenizer, prompt[-179:], f" {letter}") for letter in "ABCD"]
    assert logprobs(cut)[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_changes_the_answers_and_its_base_keeps_its_own(model, tokenizer):
    base = logprobs(score(model, tokenizer, ITEMS))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["gate_proj", "down_proj"], init_lora_weights=False))
    assert abs(logprobs(score(adapted, tokenizer, ITEMS)) - base).max() > 1e-2
    with adapted.disable_adapter():
        assert logprobs(score(adapted, tokenizer, ITEMS)) == pytest.approx(base, abs=1e-5)


def test_bfloat16_models_are_summed_in_float32(model, tokenizer):
    model = model.to(torch.bfloat16)
    scored = score(model, tokenizer, ITEMS[:1], task="mmlu_continuation", batch_size=1)
    prompt = (
        "The following are questions (with answers) about college biology.\n\nQuestion: What folds a protein?\nAnswer:"
    )
    expected = [logprob(model, tokenizer, prompt, f" {choice}") for choice in ITEMS[0]["choices"]]
    # A bfloat16 sum would be a multiple of 0.125 or more: rounded to eight bits.
    assert logprobs(scored)[0] == pytest.approx(expected, abs=1e-2)


def test_nothing_is_said_and_all_is_left_as_it_was(model, tokenizer, capfd, caplog):
    caplog.set_level(logging.INFO, logger="lm_eval")
    model.train()
    score(model, tokenizer, ITEMS)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert logging.getLogger("lm_eval").level == logging.INFO
    assert model.training


@pytest.mark.parametrize(
    ("task", "num_fewshot"), [("mmlu", 0), ("mmlu", 2), ("mmlu_continuation", 0), ("mmlu_continuation", 2)]
)
def test_equals_the_stock_task_on_the_same_rows(model, tokenizer, task, num_fewshot, monkeypatch):
    """lm-eval's own task object, its own download replaced at the hub's door, its own HFLM.

    To the last bit where the model is read by HFLM too.
    """
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    biology = [item for item in ITEMS if item["subject"] == "college_biology"]
    columns = ("question", "subject", "choices", "answer")
    splits = {
        name: datasets.Dataset.from_list([{key: row[key] for key in columns} for row in rows])
        for name, rows in (("test", biology), ("dev", DEV))
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, **_: asked.append((path, name)) or splits)
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "tasks" / "mmlu" / ("default" if task == "mmlu" else "continuation")
    name = "mmlu_college_biology" + ("_continuation" if task == "mmlu_continuation" else "")
    loaded = TaskManager(include_path=folder, include_defaults=False).load(name)
    assert asked == [("cais/mmlu", "college_biology")]
    loaded["tasks"][name].set_config("num_fewshot", num_fewshot)
    hflm: Any = HFLM
    lm = hflm(pretrained=model, tokenizer=tokenizer, batch_size=3)
    stock: Any = evaluate(lm, loaded, bootstrap_iters=0)

    theirs = [[response[0] for response in sample["filtered_resps"]] for sample in stock["samples"][name]]
    for known, tolerance in ((True, 1e-4), (False, 0)):
        monkeypatch.setattr(loglikelihood, "supports", lambda _, known=known: known)
        ours = score(model, tokenizer, [*biology, *DEV], task=task, num_fewshot=num_fewshot)
        assert abs(logprobs(ours) - torch.tensor(theirs).numpy()).max() <= tolerance
        assert ours.score.metrics["acc"] == stock["results"][name]["acc,none"]
        assert ours.score.metrics.get("acc_norm") == stock["results"][name].get("acc_norm,none")


def test_an_accuracy_that_lm_eval_does_not_confirm_is_an_error(model, tokenizer, monkeypatch):
    from lm_eval import evaluator

    genuine: Any = evaluator.evaluate

    def tampered(*args, **kwargs):
        results = genuine(*args, **kwargs)
        results["results"]["mmlu_anatomy"]["acc,none"] += 0.5
        return results

    monkeypatch.setattr(evaluator, "evaluate", tampered)
    with pytest.raises(RuntimeError, match="acc of anatomy: lm-eval says"):
        score(model, tokenizer, ITEMS)


def test_a_model_that_diverged_is_an_error(model, tokenizer):
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        score(model, tokenizer, ITEMS)


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (DEV, {}, "no item to score"),
        (
            ITEMS,
            {"task": "mmlu_letters"},
            "unknown task 'mmlu_letters': expected one of mmlu, mmlu_continuation",
        ),
        (
            [{**ITEMS[0], "subject": "college_biologie"}],
            {},
            "no task 'mmlu_college_biologie'; .*mmlu_college_biology",
        ),
        ([{**ITEMS[0], "choices": ["a", "b", "c"]}], {}, "expected 4 non-empty choices"),
        ([{**ITEMS[0], "choices": ["a", "b", "c", ""]}], {}, "expected 4 non-empty choices"),
        ([{**ITEMS[0], "split": "train"}], {}, "expected the split 'test' or 'dev', got 'train'"),
        ([{**ITEMS[0], "answer": 4}], {}, "expected an answer of 0 to 3, got 4"),
        ([*ITEMS, *DEV], {"num_fewshot": 5}, "5 exemplars wanted, but anatomy has 0 dev items"),
    ],
)
def test_bad_input_is_refused(model, tokenizer, items, options, message):
    with pytest.raises(ValueError, match=message):
        score(model, tokenizer, items, **options)


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, floe_bench.harness.evaluation.multiple_choice, floe_bench.tasks.evals.mmlu_0shot;"
        "print([name for name in ('lm_eval', 'torch', 'datasets', 'pandas') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# --- tokenizers that would spoil the scores -----------------------------------------------------------


def with_template(adds: str) -> Any:
    from tokenizers import processors

    tokenizer = byte_tokenizer.__wrapped__()
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize("task", ["mmlu", "mmlu_continuation"])
@pytest.mark.parametrize("stock", [False, True])
def test_a_tokenizer_that_ends_every_text_scores_the_choices_all_the_same(model, tokenizer, task, stock):
    """Scores with "</s>" after everything are those without it: the choice is scored, not its end."""
    ends = multiple_choice(model, with_template("$A </s>"), task, ITEMS, 0, 3, MAX_LENGTH, stock)
    plain = multiple_choice(model, tokenizer, task, ITEMS, 0, 3, MAX_LENGTH, stock)
    torch.testing.assert_close(torch.tensor(logprobs(ends)), torch.tensor(logprobs(plain)), rtol=1e-6, atol=1e-5)


def test_a_beginning_of_text_is_read(model, tokenizer):
    scored = score(model, with_template("<s> $A </s>"), ITEMS[:1])
    prompt = (
        "<s>The following are multiple choice questions (with answers) about college biology.\n\n"
        "What folds a protein?\nA. heat\nB. a chaperone\nC. light\nD. zinc\nAnswer:"
    )
    expected = [logprob(model, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
    assert logprobs(scored)[0].tolist() == pytest.approx(expected, abs=1e-4)  # float32 sums in another order


def test_a_control_tokens_name_in_a_question_is_text(model, tokenizer):
    """A forward pass over the letters of "</s>" gives the same; over the token 257 it would not."""
    question = item("anatomy", "What does </s> end?", ["a", "b", "c", "d"], 0)
    scored = score(model, tokenizer, [question])
    prompt = (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What does </s> end?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )
    letters = byte_tokenizer.__wrapped__()
    ids = [i for part in ("The", prompt[3:].partition("</s>")[0], "<", "/s>", prompt.partition("</s>")[2])
           for i in letters(part)["input_ids"]]  # fmt: skip
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *letters(" ")["input_ids"]]])).logits[0].float().log_softmax(-1)
    space, rest = letters(" ")["input_ids"][0], [letters(letter)["input_ids"][0] for letter in "ABCD"]
    expected = [(logits[-2, space] + logits[-1, letter]).item() for letter in rest]
    assert logprobs(scored)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_choices_that_the_tokenizer_cannot_tell_apart_are_refused(model):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "Answer": 1, ":": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    blind = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    with pytest.raises(ValueError, match="the choices ' A' and ' B' the same tokens"):
        score(model, blind, ITEMS)


def test_equal_scores_of_all_choices_are_an_error(model, tokenizer):
    """A model that predicts uniformly, as one of zeros does: nothing is measured."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(RuntimeError, match="5 of 5 items have 4 equal log-probabilities"):
        score(model, tokenizer, ITEMS)
