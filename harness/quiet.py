"""Other libraries' progress bars and chatter, silenced once for the command (never on import)."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Keep errors and warnings of other libraries out of the way of the command's own lines."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|accelerate")
