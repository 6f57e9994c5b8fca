"""Classification of single image files by a run's network, which needs the run's folder but not its data set."""

import numpy as np

from wtref.datasets.reading import read_image
from wtref.datasets.views import central_view, fitted_view
from wtref.device import array_module, to_host
from wtref.errors import InputError
from wtref.runs.trained import Trained


def probabilities(logits):
    """softmax(logits), (N, classes), as an array on the host."""
    p = array_module(logits).exp(logits - logits.max(axis=1, keepdims=True))
    return to_host(p / p.sum(axis=1, keepdims=True))


class Predictor:
    """A run's trained network for image files, which are prepared as in evaluation."""

    def __init__(self, run, checkpoint="last", device="auto"):
        """run: a Run; checkpoint: "best" or "last"; device: a name."""
        trained = Trained(run, checkpoint, device)
        self.device, self.network, self.normalise = trained.device, trained.fast, trained.normalise
        self.shape, self.class_names, self.levels = trained.images.shape, trained.images.class_names, trained.images.levels
        if not self.levels:
            raise InputError(f"run {run.name!r} was trained on numbers, not on pictures, so predict has no use for image files")
        self.streamed, self.checkpoint = trained.config.dataset == "folder", trained.checkpoint

    def top(self, path, count):
        """[(class name, probability)] of the `count` most probable classes, in descending order.  Raises BadImage."""
        (p,) = probabilities(self.network.forward(self.network_input(path), train=False))
        return [(self.class_names[k], float(p[k])) for k in np.argsort(-p)[:count]]

    def network_input(self, path):
        """The image in a file as the network's input, (1, H, W, C), normalised as in evaluation."""
        image = read_image(path)
        if self.streamed:
            pixels = central_view(image, self.shape[0])
        else:
            pixels = np.rint(fitted_view(image, self.shape) * (self.levels / 255)).astype(np.uint8)
        return self.normalise(self.device.raw(pixels[None]))
