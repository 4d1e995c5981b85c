"""FLAN v2: many tasks under instruction templates."""

from collections.abc import Iterator

from floe_bench import Row, RowSource

HUB_FILES = ["cot_zs_noopt_train.jsonl.gz", "niv2_zs_noopt_train.jsonl.gz"]
PUBLISHED_SIZE = (35_040, 135)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    columns = ("inputs", "targets", "task")
    for raw in source.read("flanv2", hub="SirNeural/flan_v2", columns=columns, data_files=HUB_FILES):
        yield Row(raw["inputs"].strip(), raw["targets"].strip(), domain="flanv2", task=raw["task"])
