"""A step of the GPU report that needs no GPU, and a pretended machine."""

from wtref.bench.gpu_report import Step

GOOD = Step("good", ["-c", "print('it works')"], 20)
ABOUT = {"gpu": "a pretended one", "memory_gib": 1.0, "versions": {}}
