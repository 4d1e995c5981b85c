"""A healthy made-up run, fresh for each test."""

import pytest

from .healthy import Run, healthy


@pytest.fixture
def run() -> Run:
    return healthy()
