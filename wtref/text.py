"""Text for terminals, messages and reports: names of unknown origin made printable, tables in columns, means over seeds."""

import textwrap
from statistics import mean, stdev

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


def columns(rows, justify=str.ljust, width=WIDTH):
    """Rows of texts as lines of at most `width` characters; justify: str.ljust or str.rjust.

    Each column is as wide as its widest text.  Between columns there are two spaces, or one where the lines would be too long;
    where that is not enough, the longest names are shortened.  Texts without a letter are numbers, which are left whole.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    numbers = [max((len(text) for text in column if not _has_letters(text)), default=0) for column in zip(*rows)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    most, fitted = max(widths), widths
    while sum(fitted) + len(gap) * (len(widths) - 1) > width and most > 1:
        most -= 1
        fitted = [max(number, min(each, most)) for number, each in zip(numbers, widths)]
    rows = [[shortened(text, most) if _has_letters(text) else text for text in row] for row in rows]
    return "\n".join(gap.join(map(justify, row, fitted)).rstrip() for row in rows)


def _has_letters(text):
    return any(map(str.isalpha, text))


def shortened(text, most):
    """The text if it has at most `most` characters, else its beginning and its end with "…" between them."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def wrapped(text, indent="    "):
    """The text on lines of at most WIDTH characters, broken at spaces, all but the first indented; a longer word is left whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def spread(numbers, between=" ± "):
    """The mean of numbers and, if there are several, their standard deviation, as text with two decimals."""
    return f"{mean(numbers):.2f}" + (f"{between}{stdev(numbers):.2f}" if len(numbers) > 1 else "")


def counted(number, noun):
    """The number and the noun: "1 epoch", "2,000 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
