"""`python -m wtref` and `python run.py` do what the command `wtref` does."""

import sys


def main():
    """Run the command line of `cli/main.py`; Ctrl-C while its modules are imported ends the program as it does later."""
    try:
        from wtref.cli.main import main
    except KeyboardInterrupt:
        print("wtref: interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(main())
