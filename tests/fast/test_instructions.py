"""The element-wise kernels take few instructions for each vector of numbers, in every instruction set that this machine has.

The instructions are counted, one by one, by count_instructions.c.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernel_suite import MARCH, compiled_for, instruction_sets
from wtref.fast import compilers

pytestmark = pytest.mark.slow
if sys.platform != "linux" or instruction_sets()[0] not in MARCH:
    pytest.skip("the limits are those of x86-64, and the program that counts is Linux's", allow_module_level=True)
if b"__clang__" in compilers.command_and_macros(os.environ.get("CC", "cc"))[1]:
    pytest.skip("the limits are those of gcc", allow_module_level=True)

SOURCE = Path(__file__).with_name("count_instructions.c")
NUMBERS, NOT_ALLOWED = 64 * 16, 77  # (MANY - FEW) * C, and an exit code, of count_instructions.c
VECTOR = {"SSE2": 4, "AVX2": 8, "AVX-512": 16}  # numbers of 4 bytes

# Instructions for each vector: at most three more than gcc 12 takes.  A vector that is read by way of the stack takes two
# more, or five where it is copied in halves.
LIMITS = {  # SSE2, AVX2, AVX-512
    "moments": (16, 12, 13),
    "norm_sums": (17, 15, 16),
    "norm_sums, ReLU": (26, 18, 19),
    "norm_forward": (17, 14, 15),
    "norm_forward, plus": (19, 15, 16),
    "norm_back": (18, 14, 15),
    "norm_back, ReLU": (26, 18, 19),
    "relu": (10, 9, 9),
    "relu_back": (12, 9, 9),
    "add": (9, 8, 8),
    "add, ReLU": (12, 10, 10),
    "descend": (17, 11, 11),
    "descend, Nesterov": (19, 13, 13),
}


def above_the_limits(library, instruction_set, folder):
    """{kernel of a library: its instructions for each vector}, of those with more than their limit."""
    program = folder / "count_instructions"
    subprocess.run(["cc", SOURCE, library, "-lm", "-o", program], check=True)
    done = subprocess.run([program, *LIMITS], capture_output=True, text=True)
    if done.returncode == NOT_ALLOWED:
        pytest.skip("this system does not let a process be stopped after each instruction")
    assert done.returncode == 0, done
    counts = [int(line) * VECTOR[instruction_set] / NUMBERS for line in done.stdout.splitlines()]
    limits = [limits[list(VECTOR).index(instruction_set)] for limits in LIMITS.values()]
    return {kernel: count for kernel, count, limit in zip(LIMITS, counts, limits, strict=True) if count > limit}


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_element_wise_kernels_take_few_instructions(instruction_set, tmp_path):
    library = compiled_for(instruction_set).libraries[np.dtype(np.float32)]._name
    assert above_the_limits(library, instruction_set, tmp_path) == {}


def test_vectors_that_are_read_by_way_of_the_stack_are_found(tmp_path):
    own, library = instruction_sets()[0], tmp_path / "library.so"
    shutil.copytree(compilers.SOURCES, tmp_path / "c")
    source = tmp_path / "c" / "elementwise.c"
    direct, by_way_of_the_stack = "return LOAD(p);", "{ volatile vec copy = LOAD(p); return copy; }"
    assert source.read_text().count(direct) == 1
    source.write_text(source.read_text().replace(direct, by_way_of_the_stack))
    command, _ = compilers.command_and_macros(f"cc -march={MARCH[own]}")
    subprocess.run([*command, "-DREAL=float", tmp_path / "c" / "all.c", "-o", library, "-lm"], check=True)
    assert above_the_limits(library, own, tmp_path).keys() >= {"moments", "norm_sums", "norm_forward", "norm_back", "relu_back", "add"}
