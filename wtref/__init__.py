"""wtref: the reference implementation of *Deep Learning without Weight Transport*.

Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019 (arXiv 1904.05391).

Train a network by a rule, on arrays of your own (api.py):

    run = wtref.fit("mlp", train=(X, y), test=(Xt, yt), rule="kp", epochs=5)
    run.records[-1]["test_error"], run.predict(Xt), run.network, run.figures("pictures")

A rule, a model or a data set of your own (plugins.py), in a script or in a file for `--plugin`:

    @wtref.rule("slow")
    class SlowMirror(wtref.WeightMirror): ...

    wtref.audit("slow")    # does it transport weights?
    wtref.check("slow")    # are its passes those of PyTorch's autograd?

rules.py says when each method of a rule is called.  It is given one layer's synapses s (synapses.py): W, B, b, W_gradient.
If `connect` sets s.keep_activity, s.y and s.y_next are y_l and what arrives at y_{l+1}, a row for each example or patch; if it
sets s.keep_delta, s.delta is delta_{l+1}.

For the plain program read ``rules.py`` beside the paper, then ``layers.py`` and ``train_step`` in ``training.py``; README.md
has an example in its terms.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wtref.activations import ReLU, Sigmoid, Tanh
from wtref.angles import delta_angles, matrix_angles
from wtref.device import Device, open_device
from wtref.errors import Diverged, InputError, Unsaved
from wtref.layers import BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, Residual, Sequential
from wtref.losses import sigmoid_cross_entropy, softmax_cross_entropy
from wtref.models import MODELS, Network, Options, build
from wtref.optim import SGD, Schedule
from wtref.relatives import RULES
from wtref.rules import Backprop, FeedbackAlignment, KolenPollack, Rule, SignSymmetry, WeightMirror
from wtref.training import evaluate, train_step

if TYPE_CHECKING:
    from wtref.api import FittedRun, audit, check, fit
    from wtref.plugins import dataset, model, rule

__version__ = "0.1.0"

# What needs more than the plain program is imported when it is first used.
LATER = {
    "FittedRun": "wtref.api", "audit": "wtref.api", "check": "wtref.api", "fit": "wtref.api",
    "dataset": "wtref.plugins", "model": "wtref.plugins", "rule": "wtref.plugins",
}  # fmt: skip

__all__ = [
    "MODELS", "RULES", "SGD", "Backprop", "BatchNorm", "Conv2d", "Device", "Diverged", "FeedbackAlignment", "FittedRun", "Flatten", "GlobalAvgPool",
    "InputError", "KolenPollack", "Linear", "MaxPool", "Network", "Options", "ReLU", "Residual", "Rule", "Schedule", "Sequential",
    "Sigmoid", "SignSymmetry", "Tanh", "Unsaved", "WeightMirror", "audit", "build", "check", "dataset", "delta_angles", "evaluate", "fit",
    "matrix_angles", "model", "open_device", "rule", "sigmoid_cross_entropy", "softmax_cross_entropy", "train_step",
]  # fmt: skip


def __getattr__(name):
    if name not in LATER:
        raise AttributeError(f"module 'wtref' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(LATER[name]), name)
    return value


def __dir__():
    return sorted({*globals(), *LATER})
