"""What the command says while it works."""

from pathlib import Path

import pytest
from rich.console import Console

from floe_bench.harness.errors import StorageError
from floe_bench.harness.run.progress import Progress

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_log_without_room_is_the_disks_refusal_and_no_failure_of_a_cell():
    stream = FULL.open("w", buffering=1, encoding="utf-8")
    progress = Progress(Console(file=stream))
    for speak in (progress.say, progress.update):
        with pytest.raises(StorageError, match=r"the log on standard error cannot be written \(No space left"):
            speak("step 1")
    with pytest.raises(OSError, match="No space left"):
        stream.close()
