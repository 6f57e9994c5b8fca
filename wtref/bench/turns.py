"""The time of several tasks that take turns, so that whatever else the machine does slows all of them alike."""

import math
import time
from statistics import median

WARM_UP = 2  # steps before the clock starts
TURN = 0.2  # seconds that a task's turn lasts at least
REST = 0.05  # seconds before each turn, in which the threads of other libraries stop polling for work


def median_seconds(tasks, repeats, wait=lambda: None, clock=time.perf_counter):
    """The median seconds of one call of each task, over `repeats` rounds in which the tasks take turns.

    A turn is as many calls as fill TURN seconds, and ends when `wait` returns.
    """
    turns = []
    for task in tasks:
        for _ in range(WARM_UP):
            start = clock()
            task()
            wait()
        turns.append((task, math.ceil(TURN / (clock() - start)), []))
    for _ in range(repeats):
        for task, calls, seconds in turns:
            time.sleep(REST)
            start = clock()
            for _ in range(calls):
                task()
            wait()
            seconds.append((clock() - start) / calls)
    return [median(seconds) for _, _, seconds in turns]
