"""Images made up in the shape of CIFAR-100, to time its recipe where the data are not: a data set as a plug-in.

    python run.py train --preset cifar100-res18 --plugin wtref/studies/cifar100_shaped.py --dataset cifar100-shaped --epochs 1
"""

import wtref
from wtref.datasets.synthetic import load_synthetic


@wtref.dataset("cifar100-shaped")
def cifar100_shaped(folder):
    """A fifth of CIFAR-100's numbers of images (N, 32, 32, 3), of 100 classes."""
    return load_synthetic(folder, classes=100, train=10_000, test=2_000)
