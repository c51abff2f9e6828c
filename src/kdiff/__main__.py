"""`python -m kdiff` is the command `kdiff`."""

import os
import sys

if __name__ == "__main__" and sys.path[:1] in ([""], [os.getcwd()]):
    # Python puts the working folder first, where a file random.py replaces Python's own. The command adds it at the end.
    del sys.path[0]

from kdiff.commands.main import command_line

if __name__ == "__main__":
    command_line()
