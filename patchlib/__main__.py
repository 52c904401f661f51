"""`python -m patchlib` is the command `patchlib`."""

import sys

from patchlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
