"""The machine code of the products on tensor cores, which NVRTC makes and nvdisasm lists without a GPU."""

import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

import nvrtc
from wtref.fast.cuda_launches import options, source


def disassembler():
    """nvdisasm of the package nvidia-cuda-nvdisasm or of the CUDA toolkit; None if there is neither."""
    try:
        import nvidia

        packaged = [path for folder in nvidia.__path__ for path in Path(folder).glob("*/bin/nvdisasm")]
    except ImportError:
        packaged = []
    return next(iter(packaged), shutil.which("nvdisasm"))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvrtc.library() is None, reason="no NVRTC; pip install nvidia-cuda-nvrtc"),
    pytest.mark.skipif(disassembler() is None, reason="no nvdisasm; pip install nvidia-cuda-nvdisasm"),
]
on_tensor_cores = pytest.mark.parametrize("precision, architecture", [("bf16", "sm_90"), ("tf32", "sm_80")])


@functools.cache
def kernels(precision, architecture):
    """{name: the operations of the kernel in order, such as LDGSTS.E.BYPASS.128}"""
    code, log = nvrtc.compiled(source(), architecture, options(np.float32, precision))
    assert code, log
    return listed(code)


def listed(code):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        listing = subprocess.run([disassembler(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    _, *parts = re.split(r"\n//-+ \.text\.", listing)
    return {part.split()[0]: re.findall(r"\*/ +(?:@\S+ )?(\w\S*)", part) for part in parts}


def products(precision, architecture):
    """The kernels with operations of tensor cores, and of those the operations from the first such to the last."""
    for name, operations in kernels(precision, architecture).items():
        places = [i for i, operation in enumerate(operations) if operation.startswith("HMMA")]
        if places:
            yield name, operations[places[0] : places[-1] + 1]


@on_tensor_cores
def test_words_lie_where_tensor_cores_read_them(precision, architecture):
    """Fragments in registers that are not adjacent would be moved: two moves for each HMMA."""
    found = dict(products(precision, architecture))
    assert len(found) == 3 * 7  # tiles, kernels
    for name, operations in found.items():
        moves, steps = (sum(word in operation for operation in operations) for word in ("MOV", "HMMA"))
        assert moves < 0.2 * steps, name


@on_tensor_cores
def test_no_register_spills(precision, architecture):
    for name, operations in kernels(precision, architecture).items():
        assert not [operation for operation in operations if operation.startswith(("LDL", "STL"))], name


@on_tensor_cores
def test_copies_and_stores_are_of_16_bytes(precision, architecture):
    """Stores of fewer bytes are for results whose rows begin anywhere."""
    for name, _ in products(precision, architecture):
        operations = kernels(precision, architecture)[name]
        copies = [operation for operation in operations if operation.startswith("LDGSTS")]
        assert copies and all(copy.endswith(".128") for copy in copies), name
        assert "STG.E.128" in operations, name
