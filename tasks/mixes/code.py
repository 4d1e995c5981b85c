"""CodeAlpaca-20k: small programming tasks with solutions."""

from collections.abc import Iterator

from floe_bench import Row, RowSource

PUBLISHED_SIZE = (20_022, 125)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    columns = ("instruction", "input", "output")
    for raw in source.read("codealpaca", hub="sahil2801/CodeAlpaca-20k", columns=columns):
        prompt = "\n\n".join(part.strip() for part in (raw["instruction"], raw["input"]) if part.strip())
        yield Row(prompt, raw["output"].strip(), domain="code")
