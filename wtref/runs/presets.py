"""Recipes by name: plain values that `--preset` puts in place of the defaults."""

PRESETS = {
    # the public PyTorch implementation (DL-without-Weight-Transport-PyTorch): a CIFAR-style ResNet-18 on CIFAR-100
    "cifar100-res18": {
        "model": "resnet18", "dataset": "cifar100", "stem": "cifar", "epochs": 180, "batch_size": 256,
        "lr": 0.1, "schedule": "step", "milestones": (90 / 180, 150 / 180), "warmup": 0.0,
        "momentum": 0.9, "weight_decay": 5e-4, "crop": 4, "flip": True, "rotate": 15.0,
    },
    # CIFAR-10, for a CPU
    "cifar10-resnet8": {
        "model": "resnet8", "dataset": "cifar10", "epochs": 6, "batch_size": 128, "lr": 0.1, "schedule": "cosine",
        "warmup": 0.05, "momentum": 0.9, "nesterov": True, "crop": 4, "flip": True,
    },
}  # fmt: skip
