"""Text for terminals, messages and reports: names of unknown origin made printable, and tables in columns."""


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
    """Rows of texts as lines, each column as wide as its widest text; justify: str.ljust or str.rjust."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(justify, row, widths)).rstrip() for row in rows)


def counted(number, noun):
    """The number and the noun: "1 epoch", "2,000 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
