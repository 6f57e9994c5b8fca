"""The experiments that `run.py reproduce NAME` repeats: each one a recipe, and what others found with it."""

from dataclasses import dataclass, field

from wtref.installation import PACKAGE
from wtref.rules import PAPER
from wtref.runs.config import Config
from wtref.runs.presets import PRESETS

COMPARED = (*PAPER, "frozen")
RELATED = (*PAPER, "om", "frsf", "brsf", "dfa", "dkp", "aa", "pfa", "ia", "frozen")


def with_control(rules):
    """The names of the rules, each once, with the control, frozen, at the end unless it is among them."""
    return list(dict.fromkeys([*rules, "frozen"]))


@dataclass(frozen=True)
class Experiment:
    """One recipe under several rules and seeds.

    Attributes
    ----------
    about : str         what it is, in words
    recipe : dict       fields of Config
    rules : dict        {rule: the fields in which it departs from the recipe}
    others : dict       the same of rules that are not trained now; the report shows their finished runs too
    seeds : int         how many, from 0 up
    published : dict    {rule: test accuracy in percent that others found}, as texts
    source : str        whose accuracies they are
    looks : tuple       epochs of which the report has a table, beside its picture of all (course.py); none: neither
    beside : list       the lines of another program's log, shown there (course.read_log)
    """

    about: str
    recipe: dict
    rules: dict = field(default_factory=lambda: {rule: {} for rule in COMPARED})
    seeds: int = 2
    published: dict = field(default_factory=dict)
    source: str = ""
    looks: tuple = ()
    beside: list = field(default_factory=list)
    others: dict = field(default_factory=dict)

    def configs(self, name):
        """{NAME-RULE-SEED, the name of a run: its Config}, seed by seed."""
        return {
            f"{name}-{rule}-{seed}": Config(**{**self.recipe, **own, "rule": rule, "seed": seed})
            for seed in range(self.seeds)
            for rule, own in self.rules.items()
        }


# Deep enough for FA to fail, and a lambda large enough for KP to align within these 360 steps;
# chosen on a fifth of the training images (data/results/README.md).
DIGITS = {"model": "resnet20", "dataset": "digits", "epochs": 8, "weight_decay": 0.03}

BIOTORCH_CIFAR10 = {
    "bp": "91.37", "fa": "67.84", "dfa": "54.06", "ss": "89.95", "brsf": "88.98", "frsf": "88.8",
}  # fmt: skip
BIOTORCH = "BioTorch, ResNet-20 at its best on 5,000 validation images; its DFA sends e to every position, not e/P, its SS has Xavier's scale"

# The network, the data and the mirror are those of a plug-in, studies/authors.py
AUTHORS = {
    "plugin": str(PACKAGE / "studies" / "authors.py"), "model": "authors-mlp", "dataset": "mnist-pixels", "loss": "sigmoid", "epochs": 50,
    "batch_size": 128, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0,
}  # fmt: skip
AUTHORS_RATES = {"bp": {"lr": 0.2}, "fa": {"lr": 0.2}, "kp": {"lr": 0.3}, "authors-wm": {"lr": 0.05}, "frozen": {"lr": 0.2}}

IMAGENET = {
    "dataset": "folder", "epochs": 90, "batch_size": 256, "lr": 0.1, "schedule": "step", "milestones": (30 / 90, 60 / 90, 80 / 90),
    "warmup": 0.0, "momentum": 0.9, "weight_decay": 1e-4, "norm": "after", "stem": "imagenet",
}  # fmt: skip

EXPERIMENTS = {
    "digits": Experiment("ResNet-20 on the embedded digits", DIGITS, seeds=5),
    "mnist-mlp": Experiment(
        "the authors' small network, 784-500-10 with sigmoid units, on MNIST",
        {
            "model": "mlp", "dataset": "mnist", "hidden": (500,), "activation": "sigmoid", "loss": "sigmoid", "epochs": 50,
            "batch_size": 128, "momentum": 0.0, "weight_decay": 5e-4, "schedule": "constant", "warmup": 0.0,
        },
        rules={rule: {"lr": 0.2} for rule in COMPARED} | {"wm": {"lr": 0.05}, "kp": {"lr": 0.3}},
        published={"bp": "97.70", "fa": "94.62", "kp": "97.95", "wm": "96.51"},
        source="the authors' NumPy code after 50 epochs, one run each",
    ),
    "mnist-authors": Experiment(
        "the authors' own small program, 784-500-10 on MNIST, under all its conditions",
        AUTHORS,
        rules=AUTHORS_RATES,
        published={"bp": "97.70", "fa": "94.62", "kp": "97.95", "authors-wm": "96.51"},
        source="the authors' NumPy code after 50 epochs, one run each",
        looks=(1, 10, 50, 100, 200, 400),
    ),
    # weight decay 2e-3: lambda brings W - B^T down to 2 % within these epochs under KP; backprop loses nothing by it
    "cifar10-resnet8": Experiment(
        "ResNet-8 on CIFAR-10",
        {**PRESETS["cifar10-resnet8"], "epochs": 10, "weight_decay": 2e-3},
        rules={rule: {} for rule in RELATED},
        seeds=3,
        published=BIOTORCH_CIFAR10,
        source=BIOTORCH,
    ),
    # weight decay 1e-3: by theory W - B^T falls to 0.3 % within 30 epochs under KP
    "cifar10-resnet20": Experiment(
        "ResNet-20 on CIFAR-10",
        {**PRESETS["cifar10-resnet8"], "model": "resnet20", "epochs": 30, "weight_decay": 1e-3},
        rules={rule: {} for rule in RELATED},
        seeds=1,
        published=BIOTORCH_CIFAR10,
        source=BIOTORCH,
    ),
    "cifar100-res18": Experiment("ResNet-18 on CIFAR-100, by the public PyTorch implementation's recipe", PRESETS["cifar100-res18"], seeds=1),
    "imagenet-res18": Experiment(
        "ResNet-18 on ImageNet, batch norm after the ReLU",
        {**IMAGENET, "model": "resnet18"},
        seeds=1,
        published={"bp": "69.9(4)", "wm": "69.8(7)", "kp": "70.8(4)", "ss": "60.8(4)", "fa": "2.6(2)"},
        source="the paper, standard error of the last digit in brackets",
    ),
    "imagenet-res50": Experiment(
        "ResNet-50 on ImageNet, batch norm after the ReLU",
        {**IMAGENET, "model": "resnet50"},
        seeds=1,
        published={"bp": "77.1(4)", "wm": "76.6(5)", "kp": "76.1(7)", "ss": "66.2(3)", "fa": "1.1(1)"},
        source="the paper, standard error of the last digit in brackets",
    ),
}  # fmt: skip
