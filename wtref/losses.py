"""Losses: the number to lower, and delta at the output, where every rule's error begins."""

import numpy as np

from wtref.device import array_module
from wtref.errors import InputError


def softmax_cross_entropy(logits, labels):
    """Mean over the batch of -log softmax(logits)[label].

    Parameters: logits (N, classes); labels (N,), integers from 0 to classes - 1.
    Returns: the loss in nats, a NumPy scalar or 0-d array; delta = (softmax - one-hot) / N, (N, classes).
    """
    xp, N = array_module(logits), len(logits)
    centred = logits - logits.max(axis=1, keepdims=True)
    log_p = centred - xp.log(xp.exp(centred).sum(axis=1, keepdims=True))
    target = one_hot(labels, logits)
    return -(target * log_p).sum() / N, (xp.exp(log_p) - target) / N


def sigmoid_cross_entropy(logits, labels):
    """Mean over the batch of the binary cross-entropies of sigmoid(logits), summed over classes.

    Parameters: logits (N, classes); labels (N,), integers from 0 to classes - 1.
    Returns: the loss in nats, a NumPy scalar or 0-d array; delta = (sigmoid - one-hot) / N, (N, classes).
    """
    xp, N = array_module(logits), len(logits)
    target = one_hot(labels, logits)
    softplus = xp.log1p(xp.exp(-abs(logits))) + xp.maximum(logits, 0)  # log(1 + exp(logits))
    return (softplus - target * logits).sum() / N, (0.5 + 0.5 * xp.tanh(0.5 * logits) - target) / N


def one_hot(labels, logits):
    """1 at each label and 0 elsewhere, in the shape and dtype of logits (N, classes).

    labels: an array (N,) of integers from 0 to classes - 1.
    Raises: InputError for labels of another shape or type, and on a CPU for other values.  On a GPU the values are not checked,
        as the check would wait for the device.
    """
    xp, classes = array_module(logits), logits.shape[1]
    if getattr(labels, "shape", None) != logits.shape[:1]:
        found = getattr(labels, "shape", type(labels).__name__)
        raise InputError(f"labels must be an array of shape {logits.shape[:1]}, one label for each row of the logits, found {found}")
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels must be integers from 0 to {classes - 1}, found {labels.dtype}")
    if xp is np and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"labels must be integers from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    return (labels[:, None] == xp.arange(classes)).astype(logits.dtype)


LOSSES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}
