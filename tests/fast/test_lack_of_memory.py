"""A compiled kernel that finds no memory for its work buffers raises MemoryError, and the process goes on."""

import ctypes
import threading

import numpy as np
import pytest

from kernel_suite import assert_equal, compiled, normal
from wtref.fast import compiled as module
from wtref.fast import compilers, plain
from wtref.fast.compiled import Compiled

compiled()
FLOAT = np.dtype(np.float32)
SAME, STRIDED = [(3, 3), (1, 1), (1, 1)], [(3, 3), (2, 2), (1, 1)]

# An allocation fails once `successes` others have succeeded; none fails while that is negative.
FAILING = """
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
int successes = -1;
static int fails(void) { return successes >= 0 && __atomic_fetch_sub(&successes, 1, __ATOMIC_RELAXED) == 0; }
static inline void *failing_malloc(size_t size) { return fails() ? NULL : malloc(size); }
static inline void *failing_calloc(size_t count, size_t size) { return fails() ? NULL : calloc(count, size); }
static inline void *failing_aligned_alloc(size_t line, size_t size) { return fails() ? NULL : aligned_alloc(line, size); }
#define malloc failing_malloc
#define calloc failing_calloc
#define aligned_alloc failing_aligned_alloc
"""


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """The compiled kernels with allocations that fail on demand, for two threads and float32."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "failing.h").write_text(FAILING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", f"cc -include {folder / 'failing.h'}")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(compilers, "FLAGS", [flag.replace("-O3", "-O1") for flag in compilers.FLAGS])
        patch.setattr(module, "REALS", {FLOAT: module.REALS[FLOAT]})
        return Compiled(2)


def outcome(function, arguments):
    """What the function returns, or the MemoryError that it raises, in a new thread, which has no buffers from earlier calls."""
    found = []

    def call():
        try:
            found.append(function(*arguments))
        except MemoryError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


draw = normal(0, np.float32)
x, delta, vectors = draw(300, 3), draw(300, 3), [draw(3) for _ in range(5)]
image, error, small, wide = draw(2, 9, 9, 32), draw(2, 9, 9, 48), draw(2, 5, 5, 48), draw(1, 8, 8, 192)
CALLS = [
    ("product", (draw(9, 9), draw(9, 9))),
    ("product", (draw(300, 80), draw(80, 90))),
    ("convolve", (image, draw(48, 288), *SAME)),
    ("convolve", (wide, draw(192, 9 * 192), *SAME)),
    ("convolve", (image, draw(48, 288), *STRIDED)),
    ("convolve_gradient", (error, image, *SAME)),
    ("convolve_gradient", (wide, wide, *SAME)),
    ("convolve_gradient", (small, image, *STRIDED)),
    ("convolve_back", (small, draw(48, 288).T, *STRIDED, (9, 9))),
    ("moments", (x,)),
    ("norm_sums", (delta, x, *vectors[:3])),
    ("norm_statistics", (x, *vectors[:3], 0.5, 0.1)),
    ("norm_gradients", (delta, x, *vectors[:4])),
    ("norm_forward", (x, *vectors[:3], True)),
    ("norm_back", (delta, x, *vectors)),
    ("hadamard_product", (draw(5, 9), draw(9), draw(20))),
    ("sign_correlations", (np.zeros(90, np.uint8), 80, 9, FLOAT)),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, arguments", CALLS)
def test_every_allocation_may_fail(name, arguments, fast):
    """One after the other, in the threads too; no operand is changed, and the call in which all succeed is right."""
    successes = ctypes.c_int.in_dll(fast.libraries[FLOAT], "successes")
    before = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
    for number in range(10):
        successes.value = number
        found = outcome(getattr(fast, name), arguments)
        if successes.value >= 0:
            break
        assert str(found) == f"{name}: no memory for its work buffers"
        assert all(np.array_equal(one, other) for one, other in zip(arguments, before) if isinstance(one, np.ndarray))
    assert number > 0 and successes.value == 0
    successes.value = -1
    wanted = getattr(plain, name)(*before)
    for one, other in zip(found, wanted) if isinstance(wanted, tuple) else [(found, wanted)]:
        assert_equal(one, other, 1e-3)
