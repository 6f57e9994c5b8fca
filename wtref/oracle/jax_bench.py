"""JAX's side of `run.py bench`: the training step of an mlp under backprop, one function that jax.jit compiles."""

import os
from functools import partial

import jax
import jax.numpy as jnp

PHI = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}


class Theirs:
    """JAX's side of a Work.

    layers: [(W (n_in, n_out), b (n_out,))] from the first layer to the last; velocities: arrays of the same shapes.
    """

    def __init__(self, work):
        os.environ["PJRT_NPROC"] = str(work.threads)  # read when JAX computes for the first time in a process
        jax.config.update("jax_platforms", "cpu")
        images, labels = work.data()
        self.images, self.labels = jnp.asarray(images.reshape(len(images), -1)), jnp.asarray(labels)
        sizes = [self.images.shape[1], *work.config.hidden, work.classes]
        keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
        self.layers = [(jax.random.normal(key, (n_in, n_out)) / n_in**0.5, jnp.zeros(n_out))
                       for key, n_in, n_out in zip(keys, sizes, sizes[1:])]  # fmt: skip
        self.velocities = jax.tree.map(jnp.zeros_like, self.layers)
        self.train_step = jax.jit(partial(train_step, work.config), donate_argnums=(0, 1))

    def step(self):
        """Take a training step, and wait for its end."""
        new = self.train_step(self.layers, self.velocities, self.images, self.labels)
        self.layers, self.velocities = jax.block_until_ready(new)


def train_step(config, layers, velocities, images, labels):
    """(layers, velocities) after a step of SGD with momentum; weights decay, biases do not."""
    gradients = jax.grad(loss)(layers, PHI[config.activation], images, labels)
    slopes = [(dW + config.weight_decay * W, db) for (W, _), (dW, db) in zip(layers, gradients)]
    velocities = jax.tree.map(lambda v, g: config.momentum * v + g, velocities, slopes)
    steps = jax.tree.map(lambda g, v: g + config.momentum * v, slopes, velocities) if config.nesterov else velocities
    return jax.tree.map(lambda w, step: w - config.lr * step, layers, steps), velocities


def loss(layers, phi, y, labels):
    """The cross-entropy of the softmax of the last layer's outputs, mean over the images."""
    *hidden, (W, b) = layers
    for V, c in hidden:
        y = phi(y @ V + c)
    log_p = jax.nn.log_softmax(y @ W + b)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()
