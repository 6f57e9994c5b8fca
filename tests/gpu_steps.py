"""A step of the GPU report that needs no GPU, and a simulated machine."""

from wtref.bench.gpu_report import Step

GOOD = Step("good", ["-c", "print('it works')"], 20)
ABOUT = {"gpu": "a simulated one", "memory_gib": 1.0, "versions": {}}
