"""Classes of single image files, by a run's network: needs the run's folder, not its data set."""

import numpy as np
from PIL import Image, UnidentifiedImageError

from wtref import models
from wtref.backend import array_module, to_host
from wtref.errors import InputError


class Predictor:
    """A run's network, ready for image files."""

    def __init__(self, run, checkpoint="best", device="auto"):
        """run: runs.Run; checkpoint: "best" or "last"."""
        config, data = run.config(), run.about()["data"]
        self.device = config.open_device(device)
        self.shape, self.class_names = tuple(data["shape"]), data["class_names"]
        self.mean, self.std = (self.device.array(data[name]) for name in ("mean", "std"))
        self.levels = data["levels"]
        self.network = models.build(config.model, self.shape, len(self.class_names), config.model_options)
        self.network.initialise(self.device, np.random.default_rng(0))
        arrays, _ = run.checkpoint(checkpoint)
        for name, array in self.network.arrays().items():
            array[...] = self.device.array(arrays[name])

    def top(self, path, count):
        """[(class name, probability)], likeliest first.  Raises InputError if path is no image."""
        image = self._read(path)
        logits = self.network.forward((self.device.array(image[None]) - self.mean) / self.std, train=False)[0]
        p = array_module(logits).exp(logits - logits.max())
        p = to_host(p / p.sum())
        return [(self.class_names[k], float(p[k])) for k in np.argsort(-p)[:count]]

    def _read(self, path):
        """The file as (H, W, C) in the data set's own pixel values: shorter side resized, centre cut out."""
        height, width, channels = self.shape
        try:
            image = Image.open(path).convert("L" if channels == 1 else "RGB")
        except FileNotFoundError:
            raise InputError(f"no image file {path}") from None
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} is not an image that can be read ({error})") from None
        scale = max(width / image.width, height / image.height)
        size = max(round(image.width * scale), width), max(round(image.height * scale), height)
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=float)
        return pixels.reshape(height, width, channels) * (self.levels / 255)
