"""`distribute`: a network of which several processes train one copy each, every process on its share of each batch.

Nothing in layers.py or rules.py knows of it.  Batch norm takes the statistics of the whole batch, the gradients of W and b
are summed over the processes while the backward pass is still running, and in mirror mode each process mirrors its
share of W's rows.
"""

import copy

from wtref import layers
from wtref.fast import layers as fast
from wtref.rules import WeightMirror
from wtref.training import train_step


def distribute(network, group, sync_bn=True):
    """The same network for one process of a group (parallel.ProcessGroup); itself in a group of one.

    sync_bn: whether batch norm takes the statistics of the whole batch, or of each process's share.
    """
    return network if group.size == 1 else DistributedNetwork(network, group, sync_bn)


class DistributedNetwork:
    """A Network's face: forward and backward for a share of the batch, with what the whole batch gives."""

    def __init__(self, network, group, sync_bn):
        self.synapses, self.with_feedback, self.norms = network.synapses, network.with_feedback, network.norms
        self.arrays, self.device, self.group, self.sync_bn = network.arrays, network.device, group, sync_bn
        self.network = copy.copy(network)
        self.network.layers = [_distributed(layer, group, sync_bn) for layer in network.layers]

    def forward(self, y, train=True):
        if train:
            self.group.begin_batch(len(y))
        return self.network.forward(y, train)

    def backward(self, delta):
        with self.group.all_reducing():
            self.network.backward(delta)
            if not self.sync_bn:
                for norm in self.norms:
                    self.group.queue_all_reduce(norm.gamma_gradient, norm.beta_gradient)


def _distributed(layer, group, sync_bn):
    """A copy of the layer, and of all layers inside it, whose backward passes sum their gradients."""
    if hasattr(layer, "layers"):
        copied = copy.copy(layer)
        copied.layers = [_distributed(inner, group, sync_bn) for inner in layer.layers]
        return copied
    if hasattr(layer, "synapses"):
        return Summed(layer, group)
    if sync_bn and isinstance(layer, (layers.BatchNorm, fast.BatchNorm)):
        form = SyncBatchNorm if isinstance(layer, layers.BatchNorm) else FastSyncBatchNorm
        return form(layer, group)
    return layer


class Summed:
    """A layer with weights whose gradients are on their way to their sums once its backward pass is over."""

    def __init__(self, layer, group):
        self.layer, self.group, self.forward = layer, group, layer.forward

    def backward(self, delta):
        delta, s = self.layer.backward(delta), self.layer.synapses
        self.group.queue_all_reduce(s.W_gradient, s.b_gradient)
        return delta


class SyncBatchNorm(layers.BatchNorm):
    """A plain BatchNorm with the sums of the whole batch."""

    def __init__(self, plain, group):
        vars(self).update(vars(plain))
        self.plain, self.group = plain, group

    def values(self, y):
        return self.group.global_rows(y)

    def total(self, x):
        return self.group.all_reduce(super().total(x))

    def backward(self, delta):
        delta = super().backward(delta)
        self.plain.beta_gradient, self.plain.gamma_gradient = self.beta_gradient, self.gamma_gradient
        return delta


class FastSyncBatchNorm(fast.BatchNorm):
    """A fast BatchNorm with the statistics of the whole batch."""

    def __init__(self, layer, group):
        vars(self).update(vars(layer))
        self.group = group

    def values(self, y):
        return self.group.global_rows(y)

    def statistics(self, y):
        plain, running = self.plain, (self.plain.running_mean, self.plain.running_var)
        return self.group.norm_statistics(self.ops, y, plain.gamma, *running, plain.momentum, plain.epsilon, self.known())

    def gradients(self, delta, beta):
        return self.group.norm_gradients(self.ops, delta, self.y, self.mean, self.inverse_std, self.scale, beta)


def distributed_step(group):
    """train_step for one process of a group, its images and labels a share of the batch: it returns the share's part of the loss."""

    def step(network, rule, sgd, loss, *batch):
        return train_step(network, rule, sgd, _of_the_whole_batch(loss, group), *batch)

    return step


def _of_the_whole_batch(loss, group):
    """The loss of a share of the batch, and its delta, as parts of the mean over the whole batch."""

    def part(logits, labels):
        if not len(labels):
            return logits.sum(), logits  # zero, and an empty array
        value, error = loss(logits, labels)
        share = len(labels) / group.images
        return value * share, error * share

    return part


def shard_mirroring(rule, group):
    """Let each process of the group find its share of a weight mirror's Delta B, by the noise that all draw alike."""
    if group.size == 1 or not isinstance(rule, WeightMirror):
        return
    mirror, add_bounded = rule.mirror, rule.add_bounded

    def mirror_shard(s):
        part = copy.copy(s)
        part.W = s.W[group.shard(s.n_out)]
        mirror(part)

    def add_joined(s, delta_B, lambda_B):
        add_bounded(s, group.gather_columns(delta_B, s.n_out), lambda_B)

    rule.mirror, rule.add_bounded = mirror_shard, add_joined
