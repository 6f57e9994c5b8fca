"""A step of the GPU report that needs no GPU, and a simulated machine."""

from wtref.bench.gpu_report import Step

GOOD = Step("good", ["-c", "print('it works')"], 20)
ABOUT = {"gpu": "a simulated one", "memory_gib": 1.0, "driver": 13020, "python": "3.12.3", "versions": {"numpy": "2.4"}}
