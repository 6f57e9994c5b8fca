#!/usr/bin/env python3
"""The door: `python run.py` runs the main job, `python run.py --help` says what else there is."""

import sys

try:
    from wtref.__main__ import main
except KeyboardInterrupt:  # while NumPy is imported
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
