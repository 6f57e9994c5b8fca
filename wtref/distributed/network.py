"""`distribute` turns a network into one that several processes train together, each on its shard of every batch.

Nothing in layers.py or rules.py refers to processes.  Batch norm takes the statistics of the whole batch, the gradients
of W and b are summed over the processes while the backward pass is still running, and in mirror mode each process
mirrors its shard of the rows of W.
"""

import copy
import math

import numpy as np

from wtref import layers
from wtref.device import array_module
from wtref.fast import layers as fast
from wtref.fast import plain as plain_ops
from wtref.relatives import ActivationAlignment, OrthogonalMirror
from wtref.rules import WeightMirror
from wtref.training import train_step


def distribute(network, group, sync_bn=True):
    """Return the network for one process of a group (group.ProcessGroup); in a group of one, the network itself.

    sync_bn: whether batch norm takes the statistics of the whole batch, or each process those of its shard.
    """
    return network if group.size == 1 else DistributedNetwork(network, group, sync_bn)


class DistributedNetwork:
    """A network with the interface of models.Network whose passes take a shard of the batch and give the whole batch's gradients."""

    def __init__(self, network, group, sync_bn):
        self.synapses, self.with_feedback, self.norms = network.synapses, network.with_feedback, network.norms
        self.arrays, self.device, self.group, self.sync_bn = network.arrays, network.device, group, sync_bn
        self.network = copy.copy(network)
        self.network.layers = [_distributed(layer, group, sync_bn) for layer in network.layers]

    def forward(self, y, train=True):
        if not train:
            return self.network.forward(y, train=False)
        self.group.begin_batch(len(y))
        y = self.network.forward(y)
        if self.norms and not self.sync_bn:
            self._average_running_statistics()
        return y

    def backward(self, delta):
        with self.group.all_reducing():
            self.network.backward(delta)
            if not self.sync_bn:
                for norm in self.norms:
                    self.group.queue_all_reduce(norm.gamma_gradient, norm.beta_gradient)

    def _average_running_statistics(self):
        """Replace the running statistics, which each process has moved by its own shard, by their mean over the processes.

        This happens in every step, so that all copies are equal whenever the run is saved.
        """
        running = [array for norm in self.norms for array in (norm.running_mean, norm.running_var)]
        mean = self.group.all_reduce(array_module(running[0]).concatenate(running)) / self.group.size
        start = 0
        for array in running:
            array[...] = mean[start : start + array.size]
            start += array.size


def _distributed(layer, group, sync_bn):
    """A copy of the layer, and of all layers inside it, whose backward pass sums the gradients over the processes."""
    if hasattr(layer, "layers"):
        copied = copy.copy(layer)
        copied.layers = [_distributed(inner, group, sync_bn) for inner in layer.layers]
        return copied
    if hasattr(layer, "synapses"):
        return ReducingLayer(layer, group)
    if sync_bn and isinstance(layer, layers.BatchNorm):
        return SyncBatchNorm(layer, group)
    if sync_bn and isinstance(layer, fast.BatchNorm):
        return FastSyncBatchNorm(layer, group)
    return layer


class ReducingLayer:
    """A layer with weights that queues its gradients for an all-reduce as soon as its backward pass has found them."""

    def __init__(self, layer, group):
        self.layer, self.group, self.forward = layer, group, layer.forward

    def backward(self, delta):
        delta, s = self.layer.backward(delta), self.layer.synapses
        self.group.queue_all_reduce(s.W_gradient, s.b_gradient, s.B_gradient)
        return delta


class SyncBatchNorm(layers.BatchNorm):
    """A plain BatchNorm with the statistics of the whole batch."""

    def __init__(self, plain, group):
        vars(self).update(vars(plain))
        self.plain, self.group = plain, group

    def values(self, y):
        return _values(self.group, y)

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
        return _values(self.group, y)

    def statistics(self, y):
        plain, running = self.plain, (self.plain.running_mean, self.plain.running_var)
        return plain_ops.norm_statistics(
            y, plain.gamma, *running, plain.momentum, plain.epsilon, moments=self.moments, count=self.values(y)
        )

    def moments(self, y):
        """Mean and variance (C,) of all processes' y, from one all-reduce of sums about the running mean, which all share."""
        running, rows = self.plain.running_mean, math.prod(y.shape[:-1])
        base = running.astype(np.float64)
        if rows:
            sums = plain_ops.sums_about(base, rows, *self.ops.moments(y, self.known()))
        else:
            sums = array_module(base).zeros((3, len(base)), dtype=np.float64)
        mean, variance = plain_ops.moments_about(base, *self.group.all_reduce(sums))
        return mean.astype(running.dtype), variance.astype(running.dtype)

    def gradients(self, delta, beta):
        def norm_sums(*arrays):
            return self.group.all_reduce(self.ops.norm_sums(*arrays))

        found = self.y, self.mean, self.inverse_std, self.scale
        return plain_ops.norm_gradients(delta, *found, beta, norm_sums=norm_sums, count=self.values(delta))


def _values(group, y):
    """The number of values of a channel in the whole batch, of which y (N, ..., C) is a shard."""
    return group.images * math.prod(y.shape[1:-1])


def distributed_step(group):
    """train_step for one process of a group: images and labels are its shard, and the loss is the shard's part of the mean."""

    def step(network, rule, sgd, loss, *batch):
        return train_step(network, rule, sgd, _shard_loss(loss, group), *batch)

    return step


def _shard_loss(loss, group):
    """The same loss, whose value and error for a shard are its parts of the mean over the whole batch."""

    def shard_loss(logits, labels):
        if not len(labels):
            return logits.sum(), logits  # zero, and an empty array
        value, error = loss(logits, labels)
        part = len(labels) / group.images
        return value * part, error * part

    return shard_loss


def shard_mirroring(rule, group):
    """Make each process mirror its shard of W's rows into B's columns, from noise that is the same in all processes.

    Rules whose columns of B do not learn from each other only; the others mirror all of W in every process.
    """
    rule = getattr(rule, "rule", rule)  # of OutputByBackprop
    if group.size == 1 or type(rule) not in (WeightMirror, ActivationAlignment, OrthogonalMirror):
        return
    mirror = rule.mirror

    def mirror_shard(s, **arguments):
        part, columns = copy.copy(s), group.shard(s.n_out)
        part.W, part.B = s.W[columns], s.B[:, columns]
        mirror(part, **arguments)
        whole = array_module(s.B).zeros((s.n_out, s.n_in), dtype=s.B.dtype)
        whole[columns] = part.B.T
        s.B[...] = group.all_reduce(whole).T

    rule.mirror = mirror_shard
