"""What every test shares: one thread, no network, and the real data where it is."""

import os
from pathlib import Path

import pytest

# Read by torch and the hub's client when they are first imported; tests without them import neither.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that FLOE_DATA_DIR names; skips where it is unset."""
    folder = os.environ.get("FLOE_DATA_DIR")
    if not folder:
        pytest.skip("FLOE_DATA_DIR is unset: no real data to compare with")
    return Path(folder)
