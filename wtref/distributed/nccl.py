"""Device arrays are summed by NCCL, which is started through MPI and ordered after the stream that computes."""

import socket

import numpy as np

from wtref.device import array_module
from wtref.errors import InputError

BFLOAT16 = 9  # ncclBfloat16 in nccl.h; not every version of CuPy has a name for it


def open_transport(cupy, rank, messenger):
    """The NcclTransport between the processes of a Messenger, each on its current device; cupy: the module.

    Raises InputError where CuPy has no NCCL, or two processes share a device.
    """
    from cupy.cuda import nccl  # CuPy itself does not import it

    if not nccl.available:
        raise InputError("several processes on GPUs need NCCL, and CuPy finds none; pip install nvidia-nccl-cu12 (or -cu13)")
    devices = messenger.all_gather((socket.gethostname(), cupy.cuda.Device().pci_bus_id))
    node, device = devices[rank]
    sharing = devices.count(devices[rank])
    if sharing > 1:
        raise InputError(f"{sharing} processes share the GPU {device} of {node}; start one for each GPU")
    unique_id = messenger.broadcast(nccl.get_unique_id)
    return NcclTransport(cupy, nccl, nccl.NcclCommunicator(len(devices), unique_id, rank))


class NcclTransport:
    """Sums device arrays over all processes, in place.

    All sums use one communicator and one stream, in the order in which they are started.  An event makes that stream
    wait until an array has been computed, another makes the computing stream wait for the sum.  The host waits
    for neither.
    """

    def __init__(self, cupy, nccl, communicator):
        """cupy, nccl: the modules cupy and cupy.cuda.nccl; communicator: an NcclCommunicator of all processes."""
        self.cupy, self.communicator = cupy, communicator
        self.operation, self.types = nccl.NCCL_SUM, {
            np.dtype(np.float32): nccl.NCCL_FLOAT32, np.dtype(np.float64): nccl.NCCL_FLOAT64, np.dtype(np.uint16): BFLOAT16,
        }  # fmt: skip
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pauses = []  # pairs of events between which the computing stream waited

    def all_reduce(self, x):
        """Sum x, contiguous in C or Fortran order, in place; returns x."""
        self.wait(self.start(x))
        return x

    def start(self, x):
        """Start to sum x in place; 16-bit integers hold bf16 numbers.  Returns a handle for `wait`, until which x must live."""
        self.stream.wait_event(self.cupy.cuda.get_current_stream().record())
        address = x.data.ptr
        self.communicator.allReduce(address, address, x.size, self.types[x.dtype], self.operation, self.stream.ptr)
        return self.stream.record()

    def progress(self, events):
        """Do nothing: the device proceeds without the host."""

    def wait(self, event):
        """Make the computing stream wait for a sum."""
        computing = self.cupy.cuda.get_current_stream()
        before = computing.record()
        computing.wait_event(event)
        self.pauses.append((before, computing.record()))

    def pop_waiting_time(self):
        """The seconds that the computing stream has waited since the last call."""
        pauses, self.pauses = self.pauses, []
        if pauses:
            pauses[-1][1].synchronize()
        return sum(self.cupy.cuda.get_elapsed_time(*pause) for pause in pauses) / 1000


class Bf16Compression:
    """Converts float32 to bf16 for sending: half the bytes, 8 bits of precision.  NCCL rounds after each addition."""

    def compress(self, x):
        """x, float32 -> the bits of the nearest bf16, uint16; ties go to even, NaN stays NaN."""
        bits = x.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return array_module(x).where(x == x, rounded, 0x7FC0).astype(np.uint16)

    def decompress(self, bits):
        """uint16 -> float32."""
        return (bits.astype(np.uint32) << 16).view(np.float32)
