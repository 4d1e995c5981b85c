"""How hard the readers are fuzzed: FUZZ=local (the default), ci or soak."""

import os
from datetime import timedelta

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = {"local": 500, "ci": 20_000, "soak": 1_000_000}

for name, n in EXAMPLES.items():
    settings.register_profile(
        name,
        max_examples=n,
        derandomize=name != "soak",  # the gate must not depend on luck
        database=None,
        deadline=timedelta(seconds=10),  # a hang, and not a busy machine
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("FUZZ", "local"))
