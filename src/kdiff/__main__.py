"""`python -m kdiff` is the command `kdiff`."""

import sys

from kdiff.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
