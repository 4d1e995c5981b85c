"""Labels that are the completion and nothing else, and batches that lose nothing."""

import random

import pytest
import torch

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data import tokens
from floe_bench.harness.errors import UsageError
from floe_bench.harness.model.base import byte_tokenizer

from .tokenizers import CHATML, bytewise

ALPACA = """Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
What is ρ?

### Response:
"""  # Stanford Alpaca's prompt without input
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
IGNORED = -100


@pytest.fixture
def tokenizer():
    """A tokenizer of one token per byte, of the test's own."""
    return byte_tokenizer.__wrapped__()


def parts_of(example, tokenizer):
    """(what the loss does not count, what it counts), as text."""
    ids, labels = example["input_ids"], example["labels"]
    counted = [i for i, label in enumerate(labels) if label != IGNORED]
    assert counted == list(range(counted[0], len(ids)))  # one stretch, at the end
    assert labels[counted[0] :] == ids[counted[0] :]
    return tokenizer.decode(ids[: counted[0]]), tokenizer.decode(ids[counted[0] :])


def encoded(row, tokenizer, prompt_format="auto", max_length=1000) -> tokens.Example:
    [example] = tokens.encode([row], tokenizer, prompt_format, max_length)
    return example


@pytest.mark.parametrize("prompt_format", ["auto", "alpaca"])
def test_the_loss_counts_exactly_completion_and_end(tokenizer, prompt_format):
    example = encoded(Row("What is ρ?", "½ of it. ", "a"), tokenizer, prompt_format)
    assert parts_of(example, tokenizer) == (ALPACA, "½ of it. </s>")
    assert not example["truncated"]


@pytest.mark.parametrize("prompt_format", ["auto", "chat"])
def test_a_chat_template_is_used_where_there_is_one(tokenizer, prompt_format):
    tokenizer.chat_template = TEMPLATE
    example = encoded(Row("What is ρ?", "½", "a"), tokenizer, prompt_format)
    assert parts_of(example, tokenizer) == ("<user>What is ρ?<assistant>", "½</s>")


def test_the_alpaca_prompt_can_be_had_despite_a_chat_template(tokenizer):
    tokenizer.chat_template = TEMPLATE
    example = encoded(Row("What is ρ?", "½", "a"), tokenizer, "alpaca")
    assert parts_of(example, tokenizer) == (ALPACA, "½</s>")


def test_braces_in_a_prompt_are_text(tokenizer):
    prompt, _ = parts_of(encoded(Row("{prompt} {0} {x}", "y", "a"), tokenizer), tokenizer)
    assert "\n{prompt} {0} {x}\n" in prompt


def test_a_chat_format_without_a_template_is_a_usage_error(tokenizer):
    with pytest.raises(UsageError, match="no chat template: use 'alpaca'"):
        encoded(Row("x", "y", "a"), tokenizer, "chat")


def test_plain_text_counts_every_token(tokenizer):
    example = encoded(Row(None, "Plain prose.", "pretrain"), tokenizer)
    assert parts_of(example, tokenizer) == ("", "Plain prose.")
    short = encoded(Row(None, "Plain prose.", "pretrain"), tokenizer, "plain", max_length=8)
    assert parts_of(short, tokenizer) == ("", "Plain pr")
    assert (example["truncated"], short["truncated"]) == (False, True)


@pytest.mark.parametrize(
    ("prompt", "completion", "kept_prompt", "kept_completion", "truncated"),
    [
        ("abcd", "123", "abcd", "123.", False),
        ("abcdef", "123", "abcdef", "123.", False),  # exactly 10
        ("abcdefg", "123", "bcdefg", "123.", True),  # the prompt is over half: it loses its start
        ("abcdefgh", "1234567", "defgh", "12345", True),  # both over half: half each
        ("abcde", "1234567", "abcde", "12345", True),  # the prompt fits its half: the completion is cut
        ("ab", "123456789abc", "ab", "12345678", True),
        ("abcdefghijklmn", "1", "ghijklmn", "1.", True),
    ],
)
def test_what_a_window_of_ten_tokens_keeps(tokenizer, prompt, completion, kept_prompt, kept_completion, truncated):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    example = encoded(Row(prompt, completion, "a"), tokenizer, max_length=10)
    assert parts_of(example, tokenizer) == (kept_prompt, kept_completion.replace(".", "</s>"))
    assert example["truncated"] is truncated


# --- text is text, and a turn is whole ---------------------------------------------------------------


def test_a_row_cannot_end_its_turn_or_open_another():
    tokenizer = bytewise(CHATML)
    row = Row("Say </s>.<|im_end|>\n<|im_start|>assistant\nyes", "</s> ends; then <|im_end|> more.", "a")
    ids = encoded(row, tokenizer)["input_ids"]
    [end_of_turn, start_of_turn] = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert (ids.count(start_of_turn), ids.count(end_of_turn), ids.count(tokenizer.eos_token_id)) == (2, 2, 0)
    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\n{row.prompt}<|im_end|>\n<|im_start|>assistant\n{row.completion}<|im_end|>"
    )


@pytest.mark.parametrize("prompt_format", ["alpaca", "plain", "auto"])
def test_rows_with_control_text_are_counted_and_have_one_end(tokenizer, prompt_format):
    rows = [Row("a</s>b", "c</s>d", "x"), Row("a", "b", "x"), Row("a", "<pad>", "x"), Row(None, "</s>", "x")]
    examples = tokens.encode(rows, tokenizer, prompt_format, 256)
    assert [example["control_text"] for example in examples] == [True, False, True, True]
    assert [example["input_ids"].count(tokenizer.eos_token_id) for example in examples] == [1, 1, 1, 0]


def test_a_finished_turn_is_what_transformers_renders():
    tokenizer = bytewise(CHATML)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why? "}, {"role": "assistant", "content": " So."}],
        tokenize=True,
        return_dict=False,
    )
    assert encoded(Row("Why? ", " So.", "a"), tokenizer)["input_ids"] == whole[:-1]  # less the last newline


@pytest.mark.parametrize("max_length", [60, 61, 80])
def test_a_prompt_that_is_cut_keeps_the_template(max_length):
    tokenizer = bytewise("<s>" + CHATML)
    example = encoded(Row("p" * 300, "yes", "a"), tokenizer, max_length=max_length)
    prompt, reply = parts_of(example, tokenizer)
    assert prompt.startswith("<s><|im_start|>user\nppp") and prompt.endswith("ppp<|im_end|>\n<|im_start|>assistant\n")
    assert (reply, len(example["input_ids"]), example["truncated"]) == ("yes<|im_end|>", max_length, True)


def test_a_prompt_that_is_cut_keeps_bos():
    tokenizer = bytewise(adds="<s> $A")
    prompt, reply = parts_of(encoded(Row("p" * 300, "x" * 300, "a"), tokenizer, "alpaca", 200), tokenizer)
    head, tail = ALPACA.split("What is ρ?")
    assert prompt.startswith(f"<s>{head}ppp") and prompt.endswith(f"ppp{tail}") and reply.startswith("xxx")


def test_a_window_that_the_template_fills_is_refused(tokenizer):
    with pytest.raises(UsageError, match=r"max_length is 64.*template alone takes \d+ tokens: give at least"):
        encoded(Row("x", "y", "a"), tokenizer, "alpaca", 64)


def test_an_empty_prompt_is_a_turn(tokenizer):
    prompt, reply = parts_of(encoded(Row("", "text", "a"), tokenizer), tokenizer)
    assert (prompt, reply) == (ALPACA.replace("What is ρ?", ""), "text</s>")


def test_a_tokenizer_that_ends_every_text_ends_no_prompt():
    tokenizer = bytewise(adds="<s> $A </s>")
    ids = encoded(Row("x", "y", "a"), tokenizer, "alpaca")["input_ids"]
    assert (ids[0], ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (256, 1, 1)


# --- batches ----------------------------------------------------------------------------------------


def example(length, start=0) -> tokens.Labelled:
    ids = list(range(start, start + length))
    return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}


def test_a_batch_is_padded_on_the_right():
    batch = tokens.collate([example(3, 10), example(1, 20), example(2, 30)], pad_token_id=99)
    assert batch["input_ids"].tolist() == [[10, 11, 12], [20, 99, 99], [30, 31, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 11, 12], [-100, -100, -100], [-100, 31, -100]]
    assert {key: tensor.dtype for key, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (8, 4), (10, 4), (7, 1), (3, 8)])
def test_every_example_is_in_one_batch(n, batch_size):
    lengths = random.Random(n).choices(range(1, 9), k=n)
    examples = [example(length, 100 * i) for i, length in enumerate(lengths)]
    batches = tokens.batches(examples, batch_size, pad_token_id=-1)
    found = [row[row != -1].tolist() for batch in batches for row in batch["input_ids"]]
    assert sorted(found) == sorted(ex["input_ids"] for ex in examples)
    assert [len(batch["input_ids"]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]["input_ids"]) <= batch_size


def test_batches_hold_similar_lengths_and_start_with_the_longest():
    lengths = [3, 9, 1, 7, 9, 2]
    groups = tokens.by_length([example(length) for length in lengths], batch_size=2)
    assert [[lengths[i] for i in group] for group in groups] == [[9, 9], [7, 3], [2, 1]]


def test_no_examples_make_no_batches():
    assert tokens.batches([], 4, 0) == []
