"""Faster layers, optimizer, noise and training steps, which replace the plain ones on a device that has ops."""

from wtref.fast.acceleration import accelerate
from wtref.fast.graphs import CapturedStep, can_capture
from wtref.fast.noise import accelerate_noise
from wtref.fast.optim import SGD, JoinedStep

__all__ = ["SGD", "CapturedStep", "JoinedStep", "accelerate", "accelerate_noise", "can_capture"]
