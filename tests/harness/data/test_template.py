"""Templates as model families write them: what stands around prompt and reply, dates, thinking, spaces."""

import datetime
import time

import pytest

from floe_bench.harness.data.template import template_of
from floe_bench.harness.errors import UsageError

from .tokenizers import CHATML, bytewise

LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') "
    "+ '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SWITCHED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
DATED = "{{ strftime_now('%d %B %Y') }} " + CHATML


def parts(template, **options):
    found = template_of(bytewise(template, **options), "auto")
    return found.head, found.middle, found.reply_head, found.end


def test_a_reply_ends_as_the_template_ends_it():
    """EOS is </s> here. No token is predicted after the turn's end, so its newline is not trained."""
    assert parts(CHATML) == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "", "<|im_end|>")


def test_a_template_without_an_end_of_turn_gets_eos():
    assert parts("{% for m in messages %}{{ m['content'] }}\n{% endfor %}") == ("", "\n", "", "</s>")


def test_spaces_that_the_template_drops_or_writes():
    found = template_of(bytewise(LLAMA_2), "auto")
    assert (found.head, found.middle, found.reply_head, found.end) == ("<s>[INST] ", " [/INST]", " ", " </s>")
    assert found.strips_prompt and found.strips_reply and not found.special_tokens
    found = template_of(bytewise(GEMMA, special=("<start_of_turn>", "<end_of_turn>")), "auto")
    assert (found.end, found.strips_prompt, found.strips_reply) == ("<end_of_turn>", True, True)
    found = template_of(bytewise(CHATML), "auto")
    assert not found.strips_prompt and not found.strips_reply


def test_a_thinking_block_is_closed_by_the_familys_switch():
    assert parts(SWITCHED)[1].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("opening", ["<think>", "[THINK]", "<thinking>", "<|begin_of_thought|>", "<seed:think>"])
def test_a_thinking_block_that_stays_open_is_refused(opening):
    with pytest.raises(UsageError, match="opens a thinking block"):
        template_of(bytewise(OPENS.replace("<think>", opening)), "auto")
    assert template_of(bytewise(OPENS), "alpaca").middle == "\n\n### Response:\n"


def test_a_template_is_told_the_same_date_every_day(monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3)

    today = parts(DATED)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert parts(DATED) == today
    assert today[0].startswith("26 July 2024 ")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ ['a', 'b', 'c', 'd'] | random }}" * 40 + CHATML, "differently each time"),
        ("{{ raise_exception('only with tools') }}", "only with tools"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "writes a message 2 times"),
        ("{{ messages[0]['content'] }}", "writes a message 0 times"),
        ("{% for m in messages %}", "fails"),
        ("{{ nothing.there }}", "fails"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(template, why):
    with pytest.raises(UsageError, match=why) as refusal:
        template_of(bytewise(template), "auto")
    assert "\n" not in str(refusal.value)


def test_no_template_at_all():
    found = template_of(bytewise(), "plain")
    assert (found.head, found.middle, found.reply_head, found.end) == ("", "", "", "</s>")
