"""A SLURM cluster of one machine, for tests: daemons of Debian's packages slurmctld, slurmd, slurm-client and munge.

Three partitions share two CPUs: jobs in `high` preempt those in `low`, which get 30 seconds to end by themselves, and
those in `spot`, which get none but the usual wait before a kill. Both are requeued. The cluster keeps no accounts.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=low Nodes={host} Default=YES State=UP PriorityTier=1 GraceTime=30
PartitionName=spot Nodes={host} State=UP PriorityTier=1 GraceTime=0
PartitionName=high Nodes={host} State=UP PriorityTier=10
"""


class Slurm:
    """A cluster whose files lie in `folder`.  environment: variables with which its commands find it."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        self.host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(host=self.host, folder=folder, ports=(free_port(), free_port()))
        (folder / "slurm.conf").write_text(config)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons, and wait until the machine is ready for jobs."""
        names = ("socket", "pid-file", "seed-file", "log-file")
        files = [f"--{name}={self.folder / 'munge'}.{'sock' if name == 'socket' else name[:-5]}" for name in names]
        key = f"--key-file={self.folder / 'munge.key'}"
        self.run_daemon("munged", "--force", "--foreground", key, *files)
        wait_until(lambda: (self.folder / "munge.sock").exists())
        self.run_daemon("slurmctld", "-D")
        self.run_daemon("slurmd", "-D", "-N", self.host)
        wait_until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T"))

    def run_daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as file:
            environment = {**os.environ, **self.environment}
            path = shutil.which(command[0], path=search_path())
            self.processes.append(
                subprocess.Popen([str(path), *command[1:]], env=environment, stdout=file, stderr=subprocess.STDOUT)
            )

    def call(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout

    def queue(self) -> dict[str, tuple[str, str]]:
        """The state of each job, and the reason why it waits, by its id."""
        lines = self.call("squeue", "-h", "-r", "-o", "%i|%T|%r").splitlines()
        return {job: (state, reason) for job, state, reason in (line.split("|") for line in lines)}

    def skip_delays(self) -> None:
        """Let requeued jobs start at once, for which SLURM waits two minutes."""
        for job, (_, reason) in self.queue().items():
            if reason == "BeginTime":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def end(self) -> None:
        self.call("scancel", "--signal=KILL", "--user=root")
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)


def is_installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name, path=search_path()) for name in (*DAEMONS, "sbatch"))


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, patience: float = 60) -> None:
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "the cluster did not come up"
        time.sleep(0.2)
