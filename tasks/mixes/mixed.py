"""dolly, flanv2, medical and code together: the paper's mixed-domain setting (arXiv 2506.00495)."""

from collections.abc import Iterator

from floe_bench import Row, RowSource

PARTS = ("dolly", "flanv2", "medical", "code")
PUBLISHED_SIZE = (75_525, 142)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    for part in PARTS:
        yield from source.mix(part)
