"""Classes of single image files, by a run's network: needs the run's folder, not its data set."""

import numpy as np

from wtref import models
from wtref.backend import array_module, to_host
from wtref.datasets.augment import Normalise, central_view, fitted_view
from wtref.datasets.reading import read_image


class Predictor:
    """A run's network, ready for image files, which it sees as evaluation would."""

    def __init__(self, run, checkpoint="best", device="auto"):
        """run: runs.Run; checkpoint: "best" or "last"."""
        config, data = run.config(), run.about()["data"]
        self.device = config.open_device(device)
        self.shape, self.class_names, self.levels = tuple(data["shape"]), data["class_names"], data["levels"]
        self.streamed = config.dataset == "folder"
        self.normalise = Normalise(self.device, self.shape, data["mean"], data["std"])
        self.network = models.build(config.model, self.shape, len(self.class_names), config.model_options)
        self.network.initialise(self.device, np.random.default_rng(0))
        arrays, _ = run.checkpoint(checkpoint)
        for name, array in self.network.arrays().items():
            array[...] = self.device.array(arrays[name])

    def top(self, path, count):
        """[(class name, probability)], likeliest first.  Raises InputError if path is no image."""
        logits = self.network.forward(self.network_input(path), train=False)[0]
        p = array_module(logits).exp(logits - logits.max())
        p = to_host(p / p.sum())
        return [(self.class_names[k], float(p[k])) for k in np.argsort(-p)[:count]]

    def network_input(self, path):
        """The image in a file, (1, H, W, C), normalised: what evaluation feeds the network of that file."""
        image = read_image(path)
        if self.streamed:
            pixels = central_view(image, self.shape[0])
        else:
            pixels = np.rint(fitted_view(image, self.shape) * (self.levels / 255)).astype(np.uint8)
        return self.normalise(self.device.raw(pixels[None]))
