"""How many cores this process may use, and how many threads it uses by default."""

import contextlib
import math
import os
from pathlib import Path, PurePath

from wtref.values import LIMITS

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # Linux's control groups, and those of this process


def cores():
    """The number of cores that this process may use: those that it is bound to, or fewer if its CPU time is limited."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *(math.ceil(quota) for folder in _control_groups() for quota in _quotas(folder))])


def default_threads(most=None):
    """The number of threads of the CPU's kernels where --threads is not given; at most OMP_NUM_THREADS, if that is set.

    most: this process's share of the cores; None for all of them
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the others are for nested parallel regions
    chosen = [int(first)] if first.isdecimal() and int(first) > 0 else []
    return min([most or cores(), LIMITS["threads"].high, *chosen])


def _control_groups():
    """The folders of this process's control groups, of versions 1 and 2, and of those above them, whose quotas hold too.

    In a container the path of a group may be the one on its host, which does not exist in the container.
    """
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                mount, group = MOUNT / ("cpu" if controllers else ""), PurePath(path.lstrip("/"))
                yield from (mount / folder for folder in (group, *group.parents))


def _quotas(folder):
    """[the CPU quota of a control group in cores], or [] if it has none."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # of version 2, and 1
        with contextlib.suppress(OSError, ValueError):  # a missing file, and "max"
            quota, period = map(int, " ".join((folder / name).read_text(encoding="utf-8") for name in names).split())
            return [quota / period] if quota > 0 else []  # -1: none
    return []
