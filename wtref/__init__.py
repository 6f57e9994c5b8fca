"""wtref: the reference implementation of *Deep Learning without Weight Transport*.

Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019 (arXiv 1904.05391).  Read ``rules.py`` beside the paper,
then ``layers.py`` and ``train_step`` in ``training.py``.  The names here are those of the plain program; README.md has
an example.
"""

from wtref.angles import delta_angles, matrix_angles
from wtref.device import Device, open_device
from wtref.losses import sigmoid_cross_entropy, softmax_cross_entropy
from wtref.models import MODELS, Network, Options, build
from wtref.optim import SGD, Schedule
from wtref.relatives import RULES
from wtref.rules import Backprop, FeedbackAlignment, KolenPollack, Rule, SignSymmetry, WeightMirror
from wtref.training import evaluate, train_step

__version__ = "0.1.0"

__all__ = [
    "MODELS", "RULES", "SGD", "Backprop", "Device", "FeedbackAlignment", "KolenPollack", "Network", "Options", "Rule",
    "Schedule", "SignSymmetry", "WeightMirror", "build", "delta_angles", "evaluate", "matrix_angles", "open_device",
    "sigmoid_cross_entropy", "softmax_cross_entropy", "train_step",
]  # fmt: skip
