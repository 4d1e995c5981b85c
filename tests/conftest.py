"""What every test shares: one thread, no network, the real data where it is, and a process left as it was found."""

import gc
import os
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def libraries() -> Iterator[None]:
    """What the command sets once for its process is put back. The garbage collector passes over what was imported.

    A million objects of imported libraries are no garbage, and the trainer alone collects three times a training.
    """
    from .command import libraries_as_they_were  # imports the package, which must find the variables above

    if gc.get_freeze_count() == 0:  # none yet, or a grid has thawed them
        gc.freeze()
    with libraries_as_they_were():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that FLOE_DATA_DIR names; skips where it is unset."""
    folder = os.environ.get("FLOE_DATA_DIR")
    if not folder:
        pytest.skip("FLOE_DATA_DIR is unset: no real data to compare with")
    return Path(folder)
