"""databricks-dolly-15k: instructions of eight kinds, written by people."""

from collections.abc import Iterator

from floe_bench import Row, RowSource

PUBLISHED_SIZE = (15_011, 190)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    columns = ("instruction", "context", "response", "category")
    for raw in source.read("dolly", hub="databricks/databricks-dolly-15k", columns=columns):
        prompt = "\n\n".join(part.strip() for part in (raw["instruction"], raw["context"]) if part.strip())
        yield Row(prompt, raw["response"].strip(), domain="dolly", task=raw["category"])
