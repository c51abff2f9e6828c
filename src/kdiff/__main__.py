"""`python -m kdiff` is the command `kdiff`."""

import sys

from kdiff.commands.main import main

sys.exit(main())
