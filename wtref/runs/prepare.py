"""From a Config to a Training: the plain program, accelerated and distributed where that is possible."""

import numpy as np

from wtref import datasets, fast, models, progress, randomness
from wtref.distributed.group import SINGLE
from wtref.distributed.network import distribute, distributed_step, shard_mirroring
from wtref.distributed.training import DistributedTraining
from wtref.errors import InputError, choose
from wtref.layers import BatchNorm
from wtref.losses import LOSSES
from wtref.optim import SGD, Schedule, aligning_decay
from wtref.relatives import RULES, OutputByBackprop
from wtref.runs import rule_options
from wtref.runs.pretraining import add_noise_steps
from wtref.training import Training, train_step


def prepare(config, device=None, group=SINGLE, feed=None):
    """The Training of a Config, ready for its first step.

    Parameters
    ----------
    config : Config
    device : Device, optional
        By default the device of the Config.
    group : ProcessGroup
        The processes that share each batch.
    feed : MemoryFeed or FolderFeed, optional
        The source of the batches, by default the data set of the Config.

    Raises
    ------
    InputError
        If data, device, network and rule do not fit together.
    """
    if device is None:
        progress.stage(f"opening the device {config.device}")
        device = config.open_device(group=group)
    if feed is None:
        progress.stage(f"reading {config.dataset}")
        feed = datasets.open_feed(config, device, group)
    progress.stage(f"preparing {config.model}")
    network = models.build(config.model, feed.shape, feed.classes, config.model_options)
    training = assemble(config, network, make_rule(config), feed, device, group)
    if config.noise_steps and config.rule == "fa":
        add_noise_steps(training, config.noise_steps, config.batch_size, group, config.seed)
    return training


def make_rule(config, kind=None):
    """A rule with the options of a Config; kind: its class, or None for that which the Config names."""
    kind = kind or choose("rule", config.rule, RULES)
    return kind(randomness.generator(config.seed, randomness.FEEDBACK), **rule_options.arguments(kind, config))


def assemble(config, network, rule, feed, device, group=SINGLE):
    """The Training of a network by a rule, with all other settings of a Config; the rest as `prepare` takes it."""
    network.initialise(device, randomness.generator(config.seed, randomness.WEIGHTS))
    _check_network(network, feed, device)
    _check_batch(config, network, group)
    _check_rule(rule)
    if config.output_backprop:
        rule = OutputByBackprop(rule)
    for s in network.with_feedback:
        rule.connect(s, feed.classes)
        _check_feedback(s, feed.classes)
    schedule = Schedule(config.schedule, config.lr, config.epochs * feed.steps, config.warmup, config.milestones)
    parts = network, rule, _sgd(config, schedule, network, device), LOSSES[config.loss], feed, schedule, config.epochs
    training = _faster(config, device, group, *parts)
    training.config, training.group = config, group  # for session.py and the checkpoints
    return training


def _faster(config, device, group, network, rule, *parts):
    """The Training with fused layers, several processes and a CUDA graph, as far as they are available."""
    fast.accelerate_noise(rule, device)
    network = fast.accelerate(network, device)
    if group.size > 1:
        if any(s.keep_activity or s.keep_delta for s in network.synapses):
            raise InputError(f"rule {config.rule!r} sees the activities and errors of a whole batch; train it in one process")
        network = distribute(network, group, config.sync_bn)
        shard_mirroring(rule, group)
        options = {"train_step": distributed_step(group), "group": group, "check_copies": config.check_copies}
        return DistributedTraining(network, rule, *parts, **options)
    return Training(network, rule, *parts, train_step=_step(config, device, network, rule))


def _step(config, device, network, rule):
    """train_step, or what computes the same faster."""
    if device.ops and device.name == "cpu" and network.norms and all(type(norm) is BatchNorm for norm in network.norms):
        return fast.JoinedStep()
    if device.ops and device.name != "cpu" and config.graph and fast.can_capture(network, rule):
        return fast.CapturedStep(device.xp)
    return train_step


def _sgd(config, schedule, network, device):
    decay = config.weight_decay
    decay = aligning_decay(schedule, config.momentum) if decay is None else decay
    options = network.arrays(), config.lr, config.momentum, config.nesterov, decay
    return SGD(*options) if device.ops is None else fast.SGD(device, *options)


def _check_network(network, feed, device):
    """Raise InputError unless the network has layers of different names and gives each image of the feed a number per class."""
    names = [part.name for part in network.synapses + network.norms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the network has two layers named {twice!r}; give each a name of its own")
    if not network.synapses:
        raise InputError("the network has no layer with weights; put a Linear or a Conv2d into it")
    shape = network.forward(device.array(np.zeros((1, *feed.shape))), train=False).shape
    if shape != (1, feed.classes):
        raise InputError(f"the network's output has the shape {shape[1:]} for an image, right would be ({feed.classes},), one number per class")


def _check_rule(rule):
    """Raise InputError unless the rule has what Rule's constructor gives it."""
    rng, state = getattr(rule, "rng", None), getattr(rule, "state", None)
    if not isinstance(rng, np.random.Generator) or not isinstance(state, dict):
        raise InputError(f"the constructor of {type(rule).__name__} must call super().__init__(rng), rng being NumPy's Generator or None")


def _check_feedback(s, classes):
    """Raise InputError unless the rule has given the synapses feedback weights of their shape and type."""
    right = (s.n_in, classes if s.direct else s.n_out), s.W.dtype
    found = getattr(s.B, "shape", None), getattr(s.B, "dtype", None)
    if not isinstance(s.B, type(s.W)) or found != right:
        what = f"{found[1]} of shape {found[0]}" if isinstance(s.B, type(s.W)) else f"{s.B!r:.40}"
        raise InputError(f"{s.name}: connect has set s.B to {what}, right would be {right[1]} of shape {right[0]}, as s.draw_feedback(self.rng) gives")


def _check_batch(config, network, group):
    """Raise InputError if some batch norm would see a single value of each channel in every step.

    The network must have computed a forward pass of one image before.
    """
    processes = 1 if config.sync_bn else group.size
    single = [norm.name for norm in network.norms if norm.normalised.size == norm.channels]
    if single and config.batch_size < 2 * processes:
        own = f" in one of {processes} processes" if processes > 1 else ""
        wrong = f"--batch-size {config.batch_size} is too small for batch norm: {single[0]} would see one value of a channel{own}"
        raise InputError(f"{wrong}; take at least {2 * processes}, or --norm none")
