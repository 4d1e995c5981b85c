"""GenMedGPT-5k, plus iCliniq where the hub is the source: answers to patients' questions."""

from collections.abc import Iterator

from floe_bench import Row, RowSource

PUBLISHED_SIZE = (5_452, 130)  # rows, mean tokens of prompt and completion: for planning without the data


def rows(source: RowSource) -> Iterator[Row]:
    columns = ("instruction", "input", "output")
    for raw in source.read("medical", hub="wangrongsheng/GenMedGPT-5k-en", columns=columns):
        prompt = f"{raw['instruction'].strip()}\n\n{raw['input'].strip()}"
        yield Row(prompt, raw["output"].strip(), domain="medical", task="genmedgpt")
    if source.kind == "hub":
        columns = ("input", "answer_icliniq")
        for raw in source.read("icliniq", hub="lavita/ChatDoctor-iCliniq", columns=columns):
            yield Row(raw["input"].strip(), raw["answer_icliniq"].strip(), domain="medical", task="icliniq")
