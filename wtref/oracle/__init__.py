"""The same in PyTorch.  What `run.py check` compares stands here, where it can be read without PyTorch."""

CHECKED_MODELS = ("mlp", "lenet", "resnet18", "resnet50")  # by default
CHECKED = ("bp", "fa", "ss", "wm", "kp", "dfa")  # the rules that there are in PyTorch, too
