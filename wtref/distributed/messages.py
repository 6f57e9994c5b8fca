"""What the processes of a group say to each other, and how long they wait for one another.

Nothing here waits inside MPI, where no signal is heard and no time runs out: every wait is a loop that asks MPI whether
the message is there.  A process that has waited for more than a moment tells the others so.  When the time is up, the
processes that have told nothing are those that do not answer: they are stopped or dead, or their node is.
"""

import os
import time

import numpy as np
from mpi4py import MPI

from wtref.distributed.startup import LIMIT
from wtref.errors import Unanswered

LOOKS = 100  # at a message that is not there yet, before the process takes naps
NAP = 2e-5  # seconds
LONGEST_NAP = 0.1  # seconds that count as waited; in more than these all processes may have been suspended, as by Slurm
MOMENT = 5  # seconds of waiting after which the others are told of it, again and again; or a tenth of the limit
GRACE = 25  # seconds that a process which was asked to stop waits for the others; Slurm kills after 30
WHOLE = "what was saved before is whole"


class Messenger:
    """One process's part in the messenger of a communicator's processes; all call the same methods in the same order.

    Attributes: limit (seconds that it waits for the others), stop (signals.StopRequest, or None), names (of the
    processes, for messages).
    """

    def __init__(self, comm):
        self.comm, self.limit, self.stop = comm, LIMIT, None
        self.names = [f"rank {rank}" for rank in range(comm.size)]
        self.asides = comm.Dup()  # for what one process tells the others of its waiting
        self.sent = []  # such messages, kept until they have left
        self.waits = 0  # of this process so far
        self.heard = [(0, 0.0)] * comm.size  # the last wait that each process is known to have come to, and when it said so

    def all_gather(self, thing):
        """All processes' things, by rank."""
        own, sizes = np.frombuffer(MPI.pickle.dumps(thing), np.uint8), np.empty(self.comm.size, np.int64)
        self.wait(self.comm.Iallgather(np.array([own.size]), sizes))
        things = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Iallgatherv(own, (things, sizes)))
        return [MPI.pickle.loads(part) for part in np.split(things, np.cumsum(sizes)[:-1])]

    def broadcast(self, function):
        """What function() returns, called by rank 0 alone, where it may take its time."""
        self._listen(time.monotonic())  # what is never received would slow MPI down
        if self.comm.rank == 0:
            self._tell(self.waits + 1)
            thing = function()
            message = np.frombuffer(MPI.pickle.dumps(thing), np.uint8)
            self.wait(self.comm.Ibcast(np.array([message.size])))
            self.wait(self.comm.Ibcast(message))
            return thing
        size = np.empty(1, np.int64)
        self.wait(self.comm.Ibcast(size))
        message = np.empty(size[0], np.uint8)
        self.wait(self.comm.Ibcast(message))
        return MPI.pickle.loads(message)

    def wait(self, request):
        """Until MPI's request is done.  Raises Unanswered when time is up, or when MPI has lost a process."""
        self.waits += 1
        try:
            for _ in range(LOOKS):
                if request.Test():
                    return
                os.sched_yield()  # the core may be another process's too
            self._wait_long(request)
        except MPI.Exception as error:
            reason = " ".join(error.Get_error_string().split())
            raise Unanswered(f"rank {self.comm.rank}: MPI cannot reach another process ({reason}); {WHOLE}") from None

    def _wait_long(self, request):
        moment = min(MOMENT, self.limit / 10)
        now = told = time.monotonic()
        waited = 0.0
        while not request.Test():
            time.sleep(NAP)
            before, now = now, time.monotonic()
            waited += min(now - before, LONGEST_NAP)
            if now - told > moment:
                self._tell(self.waits)
                told = now
                self._listen(now)
            if waited > 2 * moment:  # by when all who wait have been heard
                self._look_at_time(waited, now, moment)

    def _look_at_time(self, waited, now, moment):
        """Raise Unanswered if the wait has been long enough."""
        others = [rank for rank in range(self.comm.size) if rank != self.comm.rank]
        silent = [rank for rank in others if self.heard[rank][0] < self.waits]
        if waited > self.limit:
            silent = silent or [rank for rank in others if now - self.heard[rank][1] > 3 * moment] or [0]
            raise self._unanswered(silent, f"for {self.limit / 60:g} min (--wait-limit)")
        asked = self.stop and self.stop.since
        if asked and silent and min(waited, now - asked) > GRACE:
            raise self._unanswered(silent, "since the run was asked to stop, so nothing more can be saved")

    def _unanswered(self, silent, how_long):
        who = " and ".join(self.names[rank] for rank in silent)
        error = Unanswered(f"{who} {'has' if len(silent) == 1 else 'have'} not answered {how_long}; {WHOLE}")
        error.speaker = next(rank for rank in range(self.comm.size) if rank not in silent)
        return error

    def _tell(self, wait):
        """Tell all others that this process has come to its wait with this number."""
        self.sent = [request for request in self.sent if not request.Test()]
        for rank in range(self.comm.size):
            if rank != self.comm.rank:
                self.sent.append(self.asides.Isend(np.array([wait]), rank))

    def _listen(self, now):
        status, wait = MPI.Status(), np.empty(1, np.int64)
        while self.asides.Iprobe(status=status):
            rank = status.Get_source()
            self.asides.Recv(wait, rank)
            self.heard[rank] = (max(self.heard[rank][0], int(wait[0])), now)
