#!/usr/bin/env python3
"""The door: `python run.py` runs the main job, `python run.py --help` says what else there is."""

import sys

from wtref.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
