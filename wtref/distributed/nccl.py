"""How device arrays are summed: by NCCL, started through MPI, in step with the stream that computes."""

import socket

import numpy as np

from wtref.device import array_module
from wtref.errors import InputError

BFLOAT16 = 9  # ncclBfloat16 in nccl.h; not every CuPy has a name for it


def open_sums(cupy, rank, messenger):
    """NcclSums over the processes of a Messenger, each on its present device; cupy: the module.

    Raises InputError where CuPy has no NCCL, or two processes share a device.
    """
    nccl = cupy.cuda.nccl
    if not nccl.available:
        raise InputError("several processes on GPUs need NCCL, and CuPy finds none; pip install nvidia-nccl-cu12 (or -cu13)")
    devices = messenger.all_gather((socket.gethostname(), cupy.cuda.Device().pci_bus_id))
    node, device = mine = devices[rank]
    if devices.count(mine) > 1:
        raise InputError(f"{devices.count(mine)} processes share the GPU {device} of {node}; start one for each GPU")
    unique = messenger.broadcast(nccl.get_unique_id)
    return NcclSums(cupy, nccl.NcclCommunicator(len(devices), unique, rank))


class NcclSums:
    """Sums of device arrays over all processes, each array in its own place.

    They go through one communicator and one stream, in the order in which they are asked for: an event tells that
    stream when an array has been computed, another tells the computing stream when its sum is there.  The
    host waits for neither.
    """

    def __init__(self, cupy, communicator):
        self.cupy, self.communicator = cupy, communicator
        nccl = cupy.cuda.nccl
        self.add, self.types = nccl.NCCL_SUM, {
            np.dtype(np.float32): nccl.NCCL_FLOAT32, np.dtype(np.float64): nccl.NCCL_FLOAT64, np.dtype(np.uint16): BFLOAT16,
        }  # fmt: skip
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pauses = []  # pairs of events between which the computing stream waited

    def sum(self, x):
        """x lies in memory without gaps; returns x."""
        self.wait(self.start(x))
        return x

    def start(self, x):
        """Numbers of 16 bits are taken for bf16.  Returns what to `wait` for; x has to live until then."""
        self.stream.wait_event(self.cupy.cuda.get_current_stream().record())
        address = x.data.ptr
        self.communicator.allReduce(address, address, x.size, self.types[x.dtype], self.add, self.stream.ptr)
        return self.stream.record()

    def progress(self, events):
        """The device needs no help."""

    def wait(self, event):
        computing = self.cupy.cuda.get_current_stream()
        before = computing.record()
        computing.wait_event(event)
        self.pauses.append((before, computing.record()))

    def pop_waiting_time(self):
        """The seconds that the computing stream has waited since this was last asked."""
        pauses, self.pauses = self.pauses, []
        if pauses:
            pauses[-1][1].synchronize()
        return sum(self.cupy.cuda.get_elapsed_time(*pause) for pause in pauses) / 1000


class Bf16:
    """float32 shortened to bf16 for the way: half the bytes, 8 bits of precision.  In sums NCCL rounds each time it adds."""

    def __call__(self, x):
        """Nearest, ties to even; NaN stays NaN.  x float32 -> the bits, uint16."""
        bits = x.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return array_module(x).where(x == x, rounded, 0x7FC0).astype(np.uint16)

    def back(self, bits):
        """uint16 -> float32."""
        return (bits.astype(np.uint32) << 16).view(np.float32)
