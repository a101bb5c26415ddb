"""Sweeps in the queue of a SLURM cluster, by submitit: the states of jobs, and jobs that SLURM preempts."""

import os
import re
import subprocess
import time
from collections.abc import Callable

POLL_SECONDS = 15  # most seconds between two looks at the queue
KILL_SECONDS = 600  # in which SLURM kills a job that it has told to end


def watch_queue() -> Callable[[], bool]:
    """Have submitit read the states of its jobs from the queue itself. It asks for the accounts, which not every
    cluster keeps; without them a cancelled job counts as running for ever, and each question prints a warning.

    Gives a function that tells whether the queue still has a job that this process has submitted.
    """
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class QueueWatcher(SlurmInfoWatcher):
        def update(self) -> None:
            self._last_status_check = time.time()
            states = read_queue()
            if states is None:  # the controller does not answer just now
                return
            gone = {job: "COMPLETED" for job in self._info_dict if job not in states}
            self._info_dict.update({job: {"State": state} for job, state in {**gone, **states}.items()})
            self._finished |= {job for job in self._registered if self.is_done(job, mode="cache")}

        def has_jobs(self) -> bool:
            self.update_if_long_enough("standard")
            return any(job in self._info_dict and job not in self._finished for job in self._registered)

    watcher = QueueWatcher(delay_s=POLL_SECONDS)
    SlurmJob.watcher = watcher
    return watcher.has_jobs


def read_queue() -> dict[str, str] | None:
    """The state of each of this user's jobs in the queue, by its id; None where SLURM does not answer."""
    command = ("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T")
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in text.splitlines() if len(line.split()) == 2)


def await_requeue() -> None:
    """In a job of SLURM's whose run was stopped by SIGTERM: if SLURM preempts the job, bring it back into the queue and
    wait for its end. A job whose end somebody asked for, and a process that is no job, go on."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    text = run_scontrol("show", "job", "--oneliner", job)
    match = re.search(r"JobState=(\w+)", text)
    state = match[1] if match else "RUNNING"
    if state == "RUNNING":
        if not re.search(r"PreemptTime=\d", text):
            return
        run_scontrol("requeue", job)  # at once, rather than at the end of the time that SLURM grants
    time.sleep(KILL_SECONDS)  # a job that is on its way out, to be requeued or not: SLURM ends its processes


def run_scontrol(*arguments: str) -> str:
    """What `scontrol` prints."""
    return subprocess.run(("scontrol", *arguments), capture_output=True, text=True, check=False).stdout
