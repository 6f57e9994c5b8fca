"""`run.py reproduce mnist-differences`: what each difference of the authors' small program (authors.py) is worth, one at a time.

The first part is their network and its initial weights, trained as this project would: standardised images, weight decay, b
as fast as W, and the mirror of rules.py.  Each further part changes one of these to what they did; the last changes all.
"""

from wtref.runs.experiments import AUTHORS, AUTHORS_RATES, EXPERIMENTS, Experiment
from wtref.runs.series import Series

PRACTICE = {**AUTHORS, "model": "authors-mlp-quick-bias", "dataset": "mnist", "weight_decay": 5e-4}
RATES = {("wm" if rule == "authors-wm" else rule): rate for rule, rate in AUTHORS_RATES.items()}
MIRROR = {"authors-wm": AUTHORS_RATES["authors-wm"]}


def _part(about, rules=RATES, **own):
    return Experiment(f"784-500-10 on MNIST, {about}", {**PRACTICE, **own}, rules)


PARTS = {
    "mnist-practice": _part("standardised, with decay and the paper's mirror"),
    "mnist-pixels": _part("not standardised", dataset="mnist-pixels"),
    "mnist-no-decay": _part("without decay", weight_decay=0.0),
    "mnist-slow-bias": _part("b 128 times more slowly", model="authors-mlp"),
    "mnist-unbounded": _part("the authors' mirror, which never bounds B", MIRROR),
    "mnist-authors": EXPERIMENTS["mnist-authors"],
}
DIFFERENCES = Series("what each difference of the authors' small program is worth", PARTS)
