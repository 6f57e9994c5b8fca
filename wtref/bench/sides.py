"""The sides that `run.py bench` times in turn: wtref's, and PyTorch's and JAX's in oracle/, which have the same methods."""

from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

from wtref.distributed.group import SINGLE
from wtref.fast import graphs
from wtref.plugins import BUILT_IN
from wtref.runs.prepare import prepare

COMPILED = {"torch_compiled": "torch.compile", "jax": "JAX"}  # {the side's name in a row: in words}


class Ours:
    """wtref's side of a Work: its network in training, and one batch on the device."""

    def __init__(self, work, group=SINGLE, device=None):
        """group: the processes that share each batch; device: the Work's own by default."""
        self.device = device or work.config.open_device(group=group)
        images, labels = (array[group.shard(work.config.batch_size)] for array in work.data())
        self.images, self.labels = self.device.array(images), self.device.raw(labels)
        feed = SimpleNamespace(shape=work.shape, classes=work.classes, steps=1)
        self.training = prepare(work.config, self.device, group, feed)
        for _ in range(graphs.WARM_UP if work.on_gpu and not work.evaluation else 0):
            self.step()

    def step(self):
        """Take a training step."""
        self.training.step(self.images, self.labels)
        self.training.position += 1

    def evaluate(self):
        """Compute the logits of evaluation."""
        return self.training.network.forward(self.images, train=False)

    def memory(self):
        """The MiB that CuPy's memory pools hold on a GPU; of this side alone, if no other side is left."""
        pools = [self.device.xp.get_default_memory_pool(), getattr(getattr(self.training.train_step, "engaged", None), "pool", None)]
        return sum(pool.total_bytes() for pool in pools if pool) / 2**20

    def gflop(self):
        """The GFLOP of a training step: in each layer the products of forward pass, Delta W and, with a B, backward pass."""
        network = self.training.network
        for s in network.synapses:
            s.keep_delta = True
        network.backward(0 * network.forward(self.images))
        weights = [(2 * s.W.size + (0 if s.B is None else s.B.size), s) for s in network.synapses]
        return sum(2 * products * s.delta.size // s.n_out for products, s in weights) / 1e9


def pytorch_side(work):
    """The module oracle.bench; None if PyTorch cannot be imported, or if the module has no such rule or network."""
    try:
        from wtref.oracle import bench
    except (ImportError, OSError):  # the second where PyTorch's own libraries cannot be loaded
        return None
    return bench if work.config.rule in bench.RULES and work.config.model in BUILT_IN["model"] else None


def compiled_sides(work, setting):
    """{name of COMPILED: a function of the Work that makes the side}, of the sides that are compiled when they take their first step.

    setting: PyTorch's Setting for torch.compile; None leaves it out.
    """
    sides = {"torch_compiled": partial(_torch_compiled, setting=setting)} if setting else {}
    return sides | ({"jax": _jax} if find_spec("jax") and _jax_has(work) else {})


def _torch_compiled(work, setting):
    return pytorch_side(work).Theirs(work, setting._replace(compiled=True))


def _jax(work):
    from wtref.oracle.jax_bench import Theirs  # imported in the process that times it

    return Theirs(work)


def _jax_has(work):
    """Whether oracle/jax_bench.py has the Work: a training step of an mlp under backprop, in float32 on the CPU."""
    config = work.config
    usual = (config.model, config.rule, config.dtype, config.norm or "none") == ("mlp", "bp", "float32", "none")
    return usual and not work.evaluation and not work.on_gpu
