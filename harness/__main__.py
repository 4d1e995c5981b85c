"""`python -m harness` is the command `floe-bench`."""

import sys

from harness.cli import main

sys.exit(main())
