"""Text for terminals, messages and reports: names of unknown origin made printable, and tables in columns."""

import textwrap

WIDTH = 80  # of the terminals that lines and tables fit


def printable(text):
    """The text on one line, with unprintable characters escaped as in repr().

    Unprintable are control characters, which could move the cursor or end the line, marks of the writing direction, lone
    surrogates, which stand for undecodable bytes of a file name and cannot be encoded, and spaces other than " ".
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character):
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def columns(rows, justify=str.ljust):
    """Rows of texts as lines, each column as wide as its widest text; justify: str.ljust or str.rjust.

    Between columns there are two spaces, or one where the lines would be longer than WIDTH.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    return "\n".join(gap.join(map(justify, row, widths)).rstrip() for row in rows)


def wrapped(text, indent="    "):
    """The text on lines of at most WIDTH characters, broken at spaces, all but the first indented; a longer word is left whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def counted(number, noun):
    """The number and the noun: "1 epoch", "2,000 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
