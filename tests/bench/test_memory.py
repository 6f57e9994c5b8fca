"""How the peak of memory is measured."""

import sys
from types import SimpleNamespace

import pytest

from wtref.bench import memory
from wtref.bench.work import Work


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_ctrl_c_ends_the_process_that_is_measured(monkeypatch):
    """`completed` ends it when it is closed (runs/test_jobs.py)."""
    ended = []

    def interrupted():
        raise KeyboardInterrupt

    def completed(function, items, jobs):
        try:
            yield items[0], SimpleNamespace(result=interrupted)
        finally:
            ended.append(True)

    monkeypatch.setattr(memory, "completed", completed)
    with pytest.raises(KeyboardInterrupt):
        memory.peak_memory(Work.of("mlp", "bp", 2), side=None)
    assert ended == [True]
