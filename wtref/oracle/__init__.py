"""The same in PyTorch.  What `run.py check` compares by default stands here, where it can be read without PyTorch."""

CHECKED_MODELS = ("mlp", "lenet", "resnet18", "resnet50")
CHECKED = ("bp", "fa", "ss", "wm", "kp", "dfa")  # the others take longer, and are compared when they are named
