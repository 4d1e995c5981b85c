"""Plain prose, for Taylor importance and for measuring forgetting; not an instruction mix."""

from collections.abc import Iterator
from typing import Any

from floe_bench import Row, RowSource

PUBLISHED_SIZE = (3_249, 250)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    options: dict[str, Any] = {"name": "wikitext-2-raw-v1"} if source.kind == "hub" else {}
    for raw in source.read("pretrain", hub="Salesforce/wikitext", columns=("text",), **options):
        yield Row(None, raw["text"].strip(), domain="pretrain", task=raw.get("source", ""))
