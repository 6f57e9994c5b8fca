"""The sizes of kernels and images, and what is said where they do not fit."""

from wtref.errors import InputError, check_integer, check_pair


def sizes(name, **given):
    """The numbers of cells or channels as ints.  Raises InputError, which names the layer, for what is none of at least 1."""
    return [check_integer(f"{name}: {what}", number, least=1) for what, number in given.items()]


def pairs(name, kernel, stride, padding):
    """The three as pairs (vertical, horizontal), each given as an int or a pair.

    Raises: InputError, which names the layer, for what is neither, a kernel or stride below 1, or a padding below 0.
    """
    smallest = {"kernel": (kernel, 1), "stride": (stride, 1), "padding": (padding, 0)}
    return tuple(check_pair(f"{name}: {what}", value, least) for what, (value, least) in smallest.items())


def output_size(size, kernel, stride, padding):
    """(H', W'): how many patches fit down and across an image of size (H, W)."""
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding))


def check_images(name, y, channels=None):
    """Raise InputError unless y is a batch of images (N, H, W, C), with this many channels."""
    if y.ndim != 4 or channels not in (None, y.shape[-1]):
        raise InputError(f"{name}: takes images of {channels or 'any number of'} channels, was given {in_words(y)}")


def check_branches(body, shortcut):
    """Raise InputError unless what the two branches of a residual block return can be added up."""
    if body.shape != shortcut.shape:
        found = f"{in_words(body)} from the body and {in_words(shortcut)} from the shortcut"
        raise InputError(f"Residual: takes two branches of one shape, was given {found}")


def check_fit(name, y, kernel, stride, padding, channels=None):
    """Raise InputError unless y is a batch of images, with this many channels, that the kernel fits."""
    check_images(name, y, channels)
    if min(output_size(y.shape[1:3], kernel, stride, padding)) < 1:
        size, pad = ("x".join(map(str, pair)) for pair in (kernel, padding))
        raise InputError(f"{name}: a {size} kernel does not fit its {in_words(y)} input (padding {pad}); use larger images")


def in_words(y):
    """The shape of one example of a batch, for messages: 28x28x1."""
    return "x".join(str(n) for n in y.shape[1:])
