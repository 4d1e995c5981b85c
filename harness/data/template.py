"""What stands around a prompt and after a reply: the model's chat template, Alpaca's, or nothing."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any

from floe_bench.harness.errors import UsageError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)

TODAY = datetime.datetime(2024, 7, 26)
"""The date that templates are told, on every machine and every day. It is the one that Llama 3.1 falls back to."""

THINKING = re.compile(r"<think>|<thinking>|<reasoning>|<\|begin_of_thought\|>|<seed:think>|\[THINK\]")
"""What opens the thinking block of a model family."""

PROMPT, REPLY = "floePROMPTfloe", "floeREPLYfloe"
PADDING = "\u2003"
"""A space that no template writes. It shows whether a template drops the spaces around a message."""


@dataclass(frozen=True)
class Template:
    """Hold the text around prompt and reply.

    Attributes:
        head: stands before the prompt.
        middle: stands between prompt and reply; the model is given all up to here.
        reply_head: begins every reply.
        end: ends a finished reply.
        special_tokens: whether the tokenizer's own beginning (BOS) comes before the head. A chat template writes it.
        strips_prompt: whether spaces around the prompt are dropped.
        strips_reply: whether spaces around the reply are dropped.
    """

    head: str
    middle: str
    end: str
    reply_head: str = ""
    special_tokens: bool = True
    strips_prompt: bool = False
    strips_reply: bool = False


def template_of(tokenizer: Any, prompt_format: str) -> Template:
    """Return the template of a prompt format: 'chat', 'alpaca', 'plain', or 'auto' (chat where there is a template).

    Raises:
        UsageError: 'chat' finds no template, or one that cannot be used: it fails, hides or repeats a message,
            renders differently each time, or opens a thinking block and has no switch to close it.
    """
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise UsageError("model.prompt_format is 'chat', but the tokenizer has no chat template: use 'alpaca'")
    if prompt_format == "plain":
        return Template("", "", tokenizer.eos_token)
    if prompt_format == "alpaca" or tokenizer.chat_template is None:
        head, middle = ALPACA.split("{prompt}")
        return Template(head, middle, tokenizer.eos_token)
    return _chat_template(tokenizer)


def _chat_template(tokenizer: Any) -> Template:
    head, middle = _around(PROMPT, _rendered(tokenizer))
    if (head, middle) != _around(PROMPT, _rendered(tokenizer)):
        raise _unusable("it renders differently each time")
    strips_prompt, head, middle = _padding(head, middle)
    if _opens_thinking(middle):
        raise _unusable("it opens a thinking block and has no switch `enable_thinking` that closes it")
    _, turn = _around(PROMPT, _rendered(tokenizer, _padded(REPLY)))
    strips_reply, before, after = _padding(*_around(REPLY, turn))
    before = before.removeprefix(PADDING)
    return Template(
        head,
        middle,
        _end_of_turn(tokenizer, after),
        reply_head=before.removeprefix(middle) if before.startswith(middle) else "",
        special_tokens=False,
        strips_prompt=strips_prompt,
        strips_reply=strips_reply,
    )


def _rendered(tokenizer: Any, reply: str | None = None) -> str:
    """Render a turn with the reply, or up to where the reply begins."""
    # The compiled template, because transformers' `apply_chat_template` takes no function in place of the clock.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    messages = [{"role": "user", "content": _padded(PROMPT)}]
    if reply is not None:
        messages.append({"role": "assistant", "content": reply})
    try:
        return _compile_jinja_template(tokenizer.get_chat_template()).render(
            **tokenizer.special_tokens_map,
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=reply is None,
            enable_thinking=False,
            strftime_now=TODAY.strftime,
        )
    except Exception as error:  # a template is its author's program: it may raise anything
        raise _unusable(f"it fails on a turn of a user and an assistant ({error})") from error


def _padded(text: str) -> str:
    return f"{PADDING}{text}{PADDING}"


def _padding(before: str, after: str) -> tuple[bool, str, str]:
    """Return whether the template drops the padding of a message, and what it writes around the padding."""
    kept = before.endswith(PADDING) and after.startswith(PADDING)
    return not kept, before.removesuffix(PADDING), after.removeprefix(PADDING)


def _around(text: str, rendered: str) -> tuple[str, str]:
    """Return what stands before and after `text`. Raises UsageError unless it stands there once."""
    parts = rendered.split(text)
    if len(parts) != 2:
        raise _unusable(f"it writes a message {len(parts) - 1} times")
    return parts[0], parts[1]


def _opens_thinking(text: str) -> bool:
    """Tell whether the last thinking block that the text opens stays open."""
    found = list(THINKING.finditer(text))
    if not found:
        return False
    closing = found[-1].group().replace("<", "</").replace("[", "[/")
    return closing not in text[found[-1].end() :]


def _end_of_turn(tokenizer: Any, after: str) -> str:
    """Return what ends a reply: the template's text up to its last control token, or EOS where it writes none.

    Nothing is generated after that token, so spaces that follow it are left out.
    """
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.content.isspace()]
    end = max((after.rfind(name) + len(name) for name in names if name in after), default=0)
    return after[:end] if end else after.rstrip() + tokenizer.eos_token


def _unusable(reason: str) -> UsageError:
    return UsageError(f"the model's chat template cannot be used: {reason}; set model.prompt_format=alpaca")
