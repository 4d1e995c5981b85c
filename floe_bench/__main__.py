"""`python -m harness` is the command `floe-bench`."""

import sys

from floe_bench.harness.cli.main import main

sys.exit(main())
