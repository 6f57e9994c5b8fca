"""What must hold before a kernel is called: kernels believe what they are told."""

from wtref import layers

LARGEST = 1 << 20  # kernel, stride or padding: far more than any has, far less than the kernels' integers hold


def output_size(function, images, kernel, stride, padding):
    """(H', W') for images (N, H, W, C), as in layers.py; ValueError, naming the function, where there are no patches."""
    pairs = (1, kernel), (1, stride), (0, padding)
    fits = len(images) == 4 and all(len(pair) == 2 and low <= min(pair) <= max(pair) <= LARGEST for low, pair in pairs)
    size = layers.output_size(images[1:3], kernel, stride, padding) if fits else (0, 0)
    if min(size) < 1:
        raise ValueError(f"{function}: kernel {kernel}, stride {stride} and padding {padding} do not fit images {images}")
    return size


def check_order(order):
    """Raise ValueError unless there is a Hadamard matrix of that order, by Sylvester's construction."""
    if order < 1 or order & (order - 1):
        raise ValueError(f"hadamard_product: order must be a power of two, found {order}")
