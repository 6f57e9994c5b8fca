"""The same program, faster: layers, optimizer, noise and steps that replace the plain ones where a device has ops for them."""

from wtref.fast.acceleration import accelerate
from wtref.fast.graphs import CapturedStep
from wtref.fast.noise import accelerate_noise
from wtref.fast.optim import SGD

__all__ = ["SGD", "CapturedStep", "accelerate", "accelerate_noise"]
