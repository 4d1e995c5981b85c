"""Files and texts that were right before a few bytes of them changed."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from floe_bench.harness.errors import UsageError, on_one_line

T = TypeVar("T")

BITS = [
    b"", b"\n", b"\r\n", b"\r", b"\0", b" ", b"\t", b'"', b"'", b"\\", b"\\u", b"\\ud800", b"\\u0000",
    b",", b":", b"=", b"+", b"-", b"#", b"/*", b"{", b"}", b"[", b"]", b"[" * 150, b"]" * 150,
    b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-0", b"1.0", b"0x1", b"9" * 30, b"9" * 5000,
    b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80", "é☃\u2028".encode(), b"x" * 1000, b"\x1b[2J",
]  # fmt: skip
"""What breaks readers of text."""

changes = st.binary(min_size=4, max_size=12)
"""One to three changes, of four bytes each: a place (two bytes), how much to cut there, what to put in."""


def changed(content: bytes, by: bytes) -> bytes:
    for change in range(0, len(by) - 3, 4):
        high, low, cut, put = by[change : change + 4]
        at = (256 * high + low) % (len(content) + 1)
        bit = BITS[put] if put < len(BITS) else bytes([put])
        content = content[:at] + bit + content[at + cut % 13 :]
    return content


def changed_text(text: str, by: bytes) -> str:
    """As it reaches Python from a command line, which may be no UTF-8."""
    return changed(text.encode(), by).decode("utf-8", errors="surrogateescape")


def answer(read: Callable[[], T], *named: str) -> T | None:
    """Return what is read, or None where it is refused by a sentence that names the words. Nothing else may rise."""
    try:
        return read()
    except UsageError as error:
        sentence = on_one_line(str(error))
        assert len(sentence) < 1300 and all(name in sentence for name in named), sentence
        return None
