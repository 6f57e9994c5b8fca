"""Messages between the processes of a group, and the time that a process waits for another one.

No call blocks inside MPI, where signals are not handled and no timeout exists: every wait is a loop that asks MPI whether
the request is complete.  A process that waits sends the others a heartbeat with the number of its wait at regular intervals.
When its time is over, the processes that have not come to that wait are those that do not respond: they are
stopped or dead, or their node is down.  While rank 0 works for the others, as when it saves, a thread of it sends heartbeats,
and the time of the others begins anew with each.
"""

import contextlib
import os
import threading
import time

import numpy as np
from mpi4py import MPI

from wtref.distributed.startup import TIMEOUT
from wtref.errors import Unanswered

POLLS = 100  # tests of a request without a pause, before the process sleeps between two tests
POLL_INTERVAL = 2e-5  # seconds
LONGEST_POLL = 0.1  # seconds of one poll that count as waiting; in a longer one, all processes may have been suspended, as by Slurm
HEARTBEAT_INTERVAL = 5  # seconds between two heartbeats of a waiting process, or a tenth of the timeout if that is less
GRACE_PERIOD = 25  # seconds that a process waits for the others once it was asked to stop; Slurm kills after 30
WHOLE = "what was saved before is whole"


class Messenger:
    """Collective communication with a timeout; all processes of a communicator call the same methods in the same order.

    Attributes: timeout, in seconds; stop, an interrupts.StopRequest or None; names, of the processes in error messages.
    """

    def __init__(self, comm):
        self.comm, self.timeout, self.stop = comm, TIMEOUT, None
        self.names = [f"rank {rank}" for rank in range(comm.size)]
        self.heartbeat_comm = comm.Dup()
        self.sent_heartbeats = []  # requests that are not complete yet
        self.wait_count = 0  # of this process
        self.heartbeats = [(0, 0.0)] * comm.size  # of each process: its latest known wait, and when that heartbeat arrived

    def all_gather(self, value):
        """The values of all processes, by rank."""
        own, sizes = np.frombuffer(MPI.pickle.dumps(value), np.uint8), np.empty(self.comm.size, np.int64)
        self.wait(self.comm.Iallgather(np.array([own.size]), sizes))
        gathered = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Iallgatherv(own, (gathered, sizes)))
        return [MPI.pickle.loads(part) for part in np.split(gathered, np.cumsum(sizes)[:-1])]

    def broadcast(self, function):
        """The result of function(), which rank 0 alone calls; it may take longer than the timeout."""
        self._receive_heartbeats(time.monotonic())  # unreceived messages would slow MPI down
        if self.comm.rank == 0:
            with self._sending_heartbeats():
                result = function()
                message = np.frombuffer(MPI.pickle.dumps(result), np.uint8)
            self.wait(self.comm.Ibcast(np.array([message.size])))
            self.wait(self.comm.Ibcast(message))
            return result
        size = np.empty(1, np.int64)
        self.wait(self.comm.Ibcast(size), for_rank_0=True)
        message = np.empty(size[0], np.uint8)
        self.wait(self.comm.Ibcast(message))
        return MPI.pickle.loads(message)

    def wait(self, request, for_rank_0=False):
        """Wait until a request of MPI is complete.  Raises Unanswered after the timeout, or when MPI has lost a process.

        for_rank_0: whether the timeout begins anew with each heartbeat of rank 0, which is at work.
        """
        self.wait_count += 1
        try:
            for _ in range(POLLS):
                if request.Test():
                    return
                os.sched_yield()  # another process may need this core
            self._wait_long(request, for_rank_0)
        except MPI.Exception as error:
            reason = " ".join(error.Get_error_string().split())
            raise Unanswered(f"rank {self.comm.rank}: MPI cannot reach another process ({reason}); {WHOLE}") from None

    def _wait_long(self, request, for_rank_0):
        interval = self._interval()
        now = last_heartbeat = time.monotonic()
        waited = 0.0
        while not request.Test():
            time.sleep(POLL_INTERVAL)
            before, now = now, time.monotonic()
            waited += min(now - before, LONGEST_POLL)
            if now - last_heartbeat > interval:
                self._send_heartbeats(self.wait_count)
                last_heartbeat = now
                self._receive_heartbeats(now)
                if for_rank_0 and self.heartbeats[0][1] == now:
                    waited = 0.0
            if waited > 2 * interval:  # by then a heartbeat of every waiting process has arrived
                self._check_timeout(waited, now, interval)

    def _check_timeout(self, waited, now, interval):
        """Raise Unanswered if this wait has lasted too long."""
        others = [rank for rank in range(self.comm.size) if rank != self.comm.rank]
        missing = [rank for rank in others if self.heartbeats[rank][0] < self.wait_count]
        if waited > self.timeout:
            missing = missing or [rank for rank in others if now - self.heartbeats[rank][1] > 3 * interval] or [0]
            raise self._unanswered(missing, f"for {self.timeout / 60:g} min (--wait-limit)")
        asked = self.stop and self.stop.since
        if asked and missing and min(waited, now - asked) > GRACE_PERIOD:
            raise self._unanswered(missing, "since the run was asked to stop, so nothing more can be saved")

    def _unanswered(self, missing, how_long):
        names = " and ".join(self.names[rank] for rank in missing)
        error = Unanswered(f"{names} {'has' if len(missing) == 1 else 'have'} not answered {how_long}; {WHOLE}")
        error.reporting_rank = next(rank for rank in range(self.comm.size) if rank not in missing)
        return error

    @contextlib.contextmanager
    def _sending_heartbeats(self):
        """A context, to be left without a call of MPI, in which a thread sends the heartbeats of this process's next wait."""
        ended = threading.Event()
        thread = threading.Thread(target=self._send_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _send_until(self, ended):
        with contextlib.suppress(MPI.Exception):  # the next wait reports a lost process
            self._send_heartbeats(self.wait_count + 1)
            while not ended.wait(self._interval()):
                self._send_heartbeats(self.wait_count + 1)

    def _interval(self):
        return min(HEARTBEAT_INTERVAL, self.timeout / 10)

    def _send_heartbeats(self, wait):
        """Tell all other processes that this one has come to its wait with this number."""
        self.sent_heartbeats = [request for request in self.sent_heartbeats if not request.Test()]
        for rank in range(self.comm.size):
            if rank != self.comm.rank:
                self.sent_heartbeats.append(self.heartbeat_comm.Isend(np.array([wait]), rank))

    def _receive_heartbeats(self, now):
        status, wait = MPI.Status(), np.empty(1, np.int64)
        while self.heartbeat_comm.Iprobe(status=status):
            rank = status.Get_source()
            self.heartbeat_comm.Recv(wait, rank)
            self.heartbeats[rank] = (max(self.heartbeats[rank][0], int(wait[0])), now)
