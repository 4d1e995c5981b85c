"""Text that is spelled like a control token, against tokenizers' own encoding of text without such names."""

import pytest

from floe_bench.harness.data.text_tokens import Segment, TextTokens
from floe_bench.harness.errors import UsageError

from .tokenizers import CHATML, bytewise


def letters(text: str) -> list[int]:
    """The byte tokenizer's ids of ASCII text: one a letter, in the order of GPT-2's byte alphabet."""
    return bytewise().convert_tokens_to_ids(["Ġ" if letter == " " else letter for letter in text])


def test_a_control_tokens_name_in_text_is_its_letters():
    text = "Say </s> or <|im_end|>, <s><pad>."
    assert TextTokens(bytewise()).encode(text) == letters(text)


def test_a_template_means_the_token():
    tokenizer = bytewise()
    ids, segments = TextTokens(tokenizer).encode_segments(
        [Segment("<|im_start|>x", control=True), Segment("</s>"), Segment("<|im_end|>", control=True)]
    )
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert ids == [start, *letters("x</s>"), end]
    assert segments == [0, 0, 1, 1, 1, 1, 2]


def test_a_name_across_the_border_of_template_and_text_is_no_token():
    tokenizer = bytewise()
    assert TextTokens(tokenizer).encode_segments([Segment("</", control=True), Segment("s>")]).ids == letters("</s>")


def test_where_one_name_begins_another_the_longer_is_meant():
    tokenizer = bytewise(special=("<|im|>", "<|im|>2"))
    ids = TextTokens(tokenizer).encode_segments([Segment("<|im|>2", control=True)]).ids
    assert ids == [tokenizer.convert_tokens_to_ids("<|im|>2")]


def test_words_that_the_template_does_not_write_stay_words():
    """An added word is vocabulary, unless the template uses it as a sign."""
    word, sign = "protein", "<think>"
    tokenizer = bytewise(CHATML + "{# #}{{ '' if true else '<think>' }}", words=(word, sign))
    ids = TextTokens(tokenizer).encode("protein <think>")
    assert ids == [tokenizer.convert_tokens_to_ids(word), *letters(" <think>")]


@pytest.mark.parametrize(
    ("adds", "begins"),
    [("", []), ("<s> $A", ["<s>"]), ("$A </s>", []), ("<s> $A </s>", ["<s>"]), ("<s> </s> $A", ["<s>", "</s>"])],
)
def test_what_a_tokenizer_adds_stays_in_front_and_goes_at_the_end(adds, begins):
    tokenizer = bytewise(adds=adds)
    expected = [*tokenizer.convert_tokens_to_ids(begins), *letters("text")]
    assert TextTokens(tokenizer).encode("text", add_special_tokens=True) == expected
    assert TextTokens(tokenizer).encode("text") == letters("text")


@pytest.mark.parametrize("kind", ["bpe", "bpe ignoring merges", "unigram", "wordlevel"])
def test_every_kind_of_vocabulary(kind):
    """The vocabulary itself holds "</s>", as Llama's and T5's do. Other text is as the tokenizer has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "a", "b", "<", "/", "s", ">", " ", "ab"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = {
        "bpe": lambda: Tokenizer(models.BPE(vocabulary, [("a", "b")], unk_token="<unk>")),
        "bpe ignoring merges": lambda: Tokenizer(models.BPE(vocabulary, [("a", "b")], ignore_merges=True)),
        "unigram": lambda: Tokenizer(models.Unigram([(p, -len(p) / 10) for p in pieces], unk_id=0)),
        "wordlevel": lambda: Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
    }[kind]()
    if kind == "wordlevel":
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain = backend.encode("ab a").ids
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    text = TextTokens(tokenizer)
    assert tokenizer("</s>")["input_ids"] == [1]
    assert 1 not in text.encode("</s>")
    assert text.encode("ab a") == plain == tokenizer("ab a")["input_ids"]
    assert text.encode_segments([Segment("</s>", control=True)]).ids == [1]


def test_rows_with_such_text_are_told():
    text = TextTokens(bytewise(CHATML))
    assert [text.holds_control(t) for t in ("</s>", "a<|im_end|>b", "< /s>", "")] == [True, True, False, False]


def test_a_tokenizer_without_a_backend_is_refused():
    class Slow:
        chat_template = None

    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        TextTokens(Slow())
