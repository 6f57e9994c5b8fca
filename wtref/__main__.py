"""`python -m wtref` does what the command `wtref` does."""

import sys

from wtref.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
