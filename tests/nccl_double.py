"""A double of CuPy's streams, events and NCCL, for the arrays of device_double.

The computing stream computes immediately.  NCCL's sums are computed as late as possible: when the computing stream waits
for an event that was recorded after them.  A program that reads a sum without waiting for it reads the old values.
The sums are MPI's, rounded to bf16 as NCCL would round them.  As in CuPy, cupy.cuda.nccl is a module that must be imported.
"""

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
from mpi4py import MPI

from device_double import DoubleArray, xp

ADDRESSED = {7: np.float32, 8: np.float64, 9: np.uint16}  # nccl.h's ncclFloat32, ncclFloat64, ncclBfloat16
DoubleArray.data = property(lambda self: SimpleNamespace(ptr=self._hidden.__array_interface__["data"][0]))


class Event:
    """The number of operations that its stream had been given when it was recorded."""

    def __init__(self, stream):
        self.stream, self.count = stream, len(stream.given)

    def synchronize(self):
        pass


class Stream:
    """given: functions to call, in order; done: how many of them have been called."""

    streams = {}

    def __init__(self, non_blocking=False):
        self.given, self.done, self.ptr = [], 0, len(self.streams) + 1
        self.streams[self.ptr] = self
        self.ready = False  # whether it waits until its next operand has been computed

    def record(self):
        return Event(self)

    def wait_event(self, event):
        self.ready = True
        while event.stream.done < event.count:
            event.stream.given[event.stream.done]()
            event.stream.done += 1


class NcclCommunicator:
    def __init__(self, size, unique, rank):
        assert unique == "the same for all" and (size, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)

    def allReduce(self, source, target, count, datatype, operation, stream):
        stream = Stream.streams[stream]
        assert source == target and operation == 0 and stream is not computing
        assert stream.ready, "NCCL's stream was not told to wait for what it is to sum"
        stream.ready = False
        dtype = np.dtype(ADDRESSED[datatype])
        memory = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(target), dtype)
        stream.given.append(lambda: _add_up(memory))


def _add_up(memory):
    if memory.dtype != np.uint16:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, memory)
        return
    exact = (memory.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, exact)
    memory[...] = exact.astype(np.float32).view(np.uint32) >> 16


computing = Stream()
cupy, cuda, nccl = (ModuleType(name) for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"))
sys.modules |= {module.__name__: module for module in (cupy, cuda, nccl)}
vars(nccl).update(
    available=True, NCCL_SUM=0, NCCL_FLOAT32=7, NCCL_FLOAT64=8, NcclCommunicator=NcclCommunicator,
    get_unique_id=lambda: "the same for all",
)  # fmt: skip
vars(cuda).update(
    Stream=Stream, get_current_stream=lambda: computing, get_elapsed_time=lambda before, after: 0.5,
    Device=lambda: SimpleNamespace(pci_bus_id=f"0000:0{MPI.COMM_WORLD.rank}:00.0"),
)  # fmt: skip
vars(cupy).update({**vars(xp), "__name__": "cupy", "cuda": cuda})
