"""`python -m anyclass`: the command line where no script `anyclass` is on the path."""

import sys

from anyclass.cli import main

if __name__ == "__main__":
    sys.exit(main())
