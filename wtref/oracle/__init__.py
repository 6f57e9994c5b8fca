"""The same in PyTorch.  What `run.py check` compares stands here, where it can be read without PyTorch."""

CHECKED_MODELS = ("mlp", "lenet", "resnet18", "resnet50")  # by default
CHECKED = (  # the rules that there are in PyTorch, too
    "bp", "fa", "ss", "wm", "kp", "om", "usf", "frsf", "brsf", "dfa", "dkp", "pfa", "aa", "ia", "sa", "frozen",
)  # fmt: skip
