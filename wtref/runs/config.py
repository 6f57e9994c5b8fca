"""All settings of a run in one dataclass, whose fields are the flags of the command line."""

from collections import ChainMap
from dataclasses import dataclass, field, fields

from wtref import plugins
from wtref.activations import ACTIVATIONS
from wtref.cores import default_threads
from wtref.datasets import DATASETS
from wtref.device import open_device
from wtref.distributed.group import BUCKET_DTYPES, SINGLE
from wtref.errors import check_choice
from wtref.fast.cuda_launches import PRECISIONS
from wtref.fast.ops import KERNELS, equip
from wtref.losses import LOSSES
from wtref.models import ALIASES, MODELS, NORMS, STEMS, Options
from wtref.optim import SCHEDULES
from wtref.relatives import RULES
from wtref.runs import rule_options
from wtref.values import check_limits, check_type, refuse


def _option(default, help, choices=None, changeable=False, otherwise=None):
    """A field of Config.

    changeable: it concerns where and how the run is computed, and may differ when it is resumed; otherwise: what a default of
    None means, in words.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "changeable": changeable, "otherwise": otherwise})


NAMED = ("model", "rule", "dataset")  # fields that may name what a plug-in registers


@dataclass(frozen=True)
class Config:
    """The settings of a run; the help of each field describes it.  Raises InputError for wrong types and impossible values."""

    model: str = _option("resnet8", "network", ChainMap(ALIASES, MODELS))
    rule: str = _option("bp", "learning rule", RULES)
    rule_option: tuple[str, ...] | None = _option(None, "options of the rule's constructor, such as c=0.1", otherwise="the rule's own")
    plugin: str | None = _option(None, "a Python file that registers rules, models or data sets; it is run, so name your own only",
                                 changeable=True, otherwise="none")  # fmt: skip
    dataset: str = _option("digits", "data set", DATASETS)
    data_dir: str | None = _option(None, "folder of the data sets", changeable=True, otherwise="data/ of a clone, or the user's own")
    epochs: int = _option(20, "passes over the training images")
    batch_size: int = _option(32, "images per step; a single last image joins the step before")
    lr: float = _option(0.1, "learning rate eta_W after warm-up")
    momentum: float = _option(0.9, "momentum of W, b, batch norms and, under KP, DKP and PFA, feedback weights")
    nesterov: bool = _option(False, "Nesterov's form of momentum")
    weight_decay: float | None = _option(None, "decay of W and, under KP, DKP and PFA, feedback weights; the paper's lambda is lr times this",
                                         otherwise="between 5e-4 and 0.03, the least with which, under KP, W - B^T falls to 5 % by the end of the run")  # fmt: skip
    schedule: str = _option("cosine", "learning rate over time", SCHEDULES)
    warmup: float = _option(0.05, "fraction of the steps over which the learning rate climbs")
    milestones: tuple[float, ...] = _option((0.5, 0.75), "where schedule step divides by 10, as fractions of the steps")
    loss: str = _option("softmax", "softmax, or sigmoid with binary cross-entropy", LOSSES)
    norm: str | None = _option(None, "batch norm before or after the activation", NORMS, otherwise="before in resnets")
    activation: str = _option("relu", "nonlinearity phi", ACTIVATIONS)
    hidden: tuple[int, ...] = _option((500,), "sizes of an mlp's hidden layers")
    stem: str | None = _option(None, "first layers of a residual network", STEMS, otherwise="by image size")
    crop: int = _option(0, "augmentation: zeros around an image, in pixels, from which a random window is cut")
    flip: bool | None = _option(None, "augmentation: mirror half of the images, left to right", otherwise="only with --dataset folder")
    rotate: float = _option(0.0, "augmentation: largest random rotation, in degrees")
    jitter: float = _option(0.0, "image folders: largest change of brightness, contrast and saturation, 0.4 for 40 %")
    image_size: int = _option(224, "image folders: pixels on a side of what the network sees")
    bad_images: str = _option("error", "image folders: what to do with images that cannot be read", ("error", "skip"))
    workers: int | None = _option(None, "image folders: images decoded at a time", changeable=True, otherwise="one a core")
    save_every: int = _option(1000, "steps between checkpoints; an epoch's end writes one too", changeable=True)
    tensorboard: bool = _option(False, "also write TensorBoard event files into the run's folder", changeable=True)
    seed: int = _option(0, "seed of everything random in the run")
    device: str = _option("auto", "auto, cpu, cuda or cuda:N", changeable=True)
    threads: int | None = _option(None, "threads of the CPU's kernels", changeable=True, otherwise="one a core, at most OMP_NUM_THREADS")
    kernels: str = _option("auto", "what computes; auto: CUDA on a GPU, compiled C if there is a compiler", KERNELS, changeable=True)
    dtype: str = _option("float32", "type of all real numbers", ["float32", "float64"])
    graph: bool = _option(True, "on a GPU: replay the training step as a CUDA graph", changeable=True)
    precision: str = _option("float32", "on a GPU: type of the factors of products; bf16: also of activities and errors", PRECISIONS)
    sync_bn: bool = _option(True, "batch norm over the whole batch, not over each process's shard")
    bucket_mib: float = _option(4.0, "MiB of gradients that are sent together", changeable=True)
    bucket_dtype: str = _option("float32", "on GPUs: the type in which gradients are sent", BUCKET_DTYPES)
    wait_limit: float = _option(10.0, "minutes that the processes wait for one that does not answer", changeable=True)
    check_copies: int = _option(0, "compare the processes' W, b and B every so many steps; 0: never", changeable=True)
    mirror_rows: int | None = _option(None, "WM, AA, IA: rows of noise per step", otherwise="6 for each input, at most two million values")
    mirror_window: float = _option(40.0, "WM: rows of noise, for each input, that B averages over when the learning rate is 0.1")
    noise_steps: int = _option(0, "FA: steps on random images and labels before training")
    output_backprop: bool = _option(False, "let errors leave the output layer through its own W^T, whatever the rule")

    def __post_init__(self):
        for spec in fields(self):
            check_type(spec.name, getattr(self, spec.name), spec.type)
        for spec in fields(self):
            value, choices = getattr(self, spec.name), spec.metadata["choices"]
            if choices is not None and value is not None and not (spec.name in NAMED and self.lacks_plugin):
                check_choice(spec.name.replace("_", " "), value, choices)
        if self.rule_option and not self.lacks_plugin:
            rule_options.check(self.rule, self.rule_option)
        check_limits(vars(self))
        self._require("precision", self.dtype == "float32" or self.precision == "float32", "float32 with --dtype float64")
        self._require("bucket_dtype", self.dtype == "float32" or self.bucket_dtype == "float32", "float32 with --dtype float64")

    def _require(self, name, holds, right):
        if not holds:
            refuse(name, right, getattr(self, name))

    @property
    def lacks_plugin(self):
        """Whether this process has not run the plug-in; the names in the Config may be those that it registers."""
        return self.plugin is not None and self.plugin not in plugins.loaded

    def open_device(self, name=None, group=SINGLE):
        """Open the Device of the run, or the one called `name`, for a process of the group."""
        device = open_device(name or self.device, self.dtype, group.local_rank)
        threads = default_threads(group.threads) if self.threads is None else self.threads
        return equip(device, self.kernels, threads, self.precision)

    @property
    def model_options(self):
        return Options(norm=self.norm, activation=self.activation, hidden=self.hidden, stem=self.stem)
