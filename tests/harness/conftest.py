"""The tiny profile's model, tokenizer and some of its examples."""

import pytest

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.data.sources import open_source
from floe_bench.harness.data.tokens import Example, encode
from floe_bench.harness.model import base as base_model
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings

from .records import record


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    return profiles.load("tiny")


@pytest.fixture
def tiny(tiny_settings):
    """(model, tokenizer), fresh for each test."""
    return base_model.load_model(tiny_settings.model), base_model.load_tokenizer(tiny_settings.model)


@pytest.fixture(scope="session")
def tiny_examples(tiny_settings) -> list[Example]:
    """Twenty code rows of different lengths, up to 200 bytes."""
    rows = sorted(open_source(tiny_settings.data).mix("code"), key=lambda row: len(f"{row.prompt}{row.completion}"))[
        :20
    ]
    return encode(rows, base_model.byte_tokenizer(), "alpaca", 200)


@pytest.fixture
def records() -> list[Record]:
    return [record("full", seed, value) for seed, value in enumerate((0.30, 0.32, 0.34))] + [
        record("floe", seed, value) for seed, value in enumerate((0.27, 0.29, 0.31))
    ]
