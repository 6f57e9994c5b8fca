"""Text of unknown origin, as names of files, classes and folders, for terminals, messages and reports."""


def printable(text):
    """The text on one line, its unprintable characters escaped as in repr().

    These are control characters, which could move the cursor or end the line, marks of the writing direction,
    lone surrogates, which stand for bytes of a file's name and cannot be encoded, and spaces other than " ".
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character):
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
