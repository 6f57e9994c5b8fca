"""A Slurm of two nodes on this machine, for the tests.  All that it reads and writes lies in one folder; no system file is used.

Debian's packages slurmctld, slurmd, slurm-client and munge suffice: the two slurmd run under different names and ports.
"""

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import time

import pytest

from programs import wait_until

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"  # where Debian puts daemons
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol", "sinfo")

needs_slurm = pytest.mark.skipif(
    not all(shutil.which(program, path=PATH) for program in PROGRAMS),
    reason="needs Slurm: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge",
)

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=node1,node2 Default=YES State=UP
"""


@contextlib.contextmanager
def cluster(folder):
    """A context in which the daemons run; yields the Cluster.  At its end all jobs are cancelled and all daemons ended."""
    configuration, key = folder / "slurm.conf", folder / "munge.key"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, user=_user(), ports=_free_ports(3)))
    for name in ("state", "node1", "node2"):
        (folder / name).mkdir()
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    munged = ["munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in files.items())]
    slurmd = ["slurmd", "-D", "-f", str(configuration), "-N"]
    found = Cluster(folder)
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(_daemon(munged, folder))
        wait_until((folder / "munge.socket").exists)
        for command in (["slurmctld", "-D", "-c", "-f", str(configuration)], [*slurmd, "node1"], [*slurmd, "node2"]):
            daemons.enter_context(_daemon(command, folder))
        wait_until(lambda: found.call("sinfo", "-h", "-o", "%D %T", check=False).split() == ["2", "idle"])
        try:
            yield found
        finally:
            found.call("scancel", "--user", _user())
            wait_until(lambda: not found.call("squeue", "-h"))


@contextlib.contextmanager
def _daemon(command, folder):
    """A context in which a daemon runs in the foreground of a process of its own."""
    environment = {**os.environ, "PATH": PATH}
    with open(folder / f"{command[0]}.out", "a") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _user():
    """The name of this process's user, whatever $LOGNAME and $USER say."""
    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """A running Slurm, and its commands.  MPI takes its two nodes for different machines; why by OFI: wtref/distributed/README.md."""

    def __init__(self, folder):
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi"}

    def call(self, *command, check=True):
        """The standard output of one of Slurm's commands."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=check, timeout=60).stdout

    def submit(self, script):
        """Submit a batch script, the path of a file; returns the number of its job."""
        return re.search(r"\d+", self.call("sbatch", script))[0]

    def update(self, job, **values):
        """Change a job's properties, by Slurm's names for them."""
        self.call("scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in values.items()))

    def state(self, job):
        """The state of a job, and its exit code, both as Slurm writes them."""
        shown = self.call("scontrol", "show", "job", job)
        return re.search(r"JobState=(\w+)", shown)[1], re.search(r"ExitCode=([\d:]+)", shown)[1]

    def wait_for(self, job, *states, seconds=60):
        """Wait until a job is in one of the states; returns its exit code."""
        end = time.monotonic() + seconds
        while (found := self.state(job))[0] not in states:
            assert time.monotonic() < end, f"job {job} is {found[0]}, not {' or '.join(states)}"
            time.sleep(0.1)
        return found[1]
