"""`python -m kdiff` is the command `kdiff`."""

import sys

from kdiff.cli import main

sys.exit(main())
