"""A pool of supervised workers that stay alive from run to run. A slot is free as soon as its jobs have ended, and a
worker that dies is replaced."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.execution.child_process import Child, receive, start_child
from lab.execution.dead_process import describe_death
from lab.identity.identity import target_paths
from lab.record.environment import describe_environment
from lab.record.status import HANG_MARK
from lab.sweep.fork_server import start_fork_server
from lab.sweep.plan import Job
from lab.sweep.worker import WorkerSpec, longest_step_timeout, serve_worker
from lab.train.stop import STOP_SIGNALS

if TYPE_CHECKING:
    from lab.assembly.preflight_report import PreflightReport

STOP_GRACE = 60  # seconds to end the step, save and exit, before a worker that was asked to stop is killed
FROZEN_GRACE = 10  # seconds beyond `step_timeout` in which a worker can end itself, before it is killed as frozen
POLL_SECONDS = 0.2  # between two calls of `show`
FROZEN = f"{HANG_MARK}the process could not even end itself: it was stopped, or frozen in code that is not Python)\n"


@dataclass
class Slot:
    """One worker and its jobs.

    jobs: its jobs that have not ended, by number.  stopping_since: time when it was asked to stop, on
    time.monotonic()'s clock; None: it was not.  killed: whether the pool killed it because it did not stop in time.
    step_timeout: longest of its jobs, in seconds, or None.  heard: time of its last message, on the same clock.
    """

    worker: Child
    jobs: dict[int, Job] = field(default_factory=dict)
    stopping_since: float | None = None
    killed: bool = False
    step_timeout: float | None = None
    heard: float = 0.0

    @property
    def is_frozen(self) -> bool:
        """Whether nothing was heard of it for so long that it cannot even end itself, as a stopped process."""
        limit = self.step_timeout
        return bool(self.jobs and limit) and time.monotonic() - self.heard > (limit or 0) + FROZEN_GRACE


@dataclass(frozen=True)
class Event:
    """A message from a worker about one of its jobs.

    kind: `ended`, with the Outcome, or the error of a run that could not start; `died`, with the worker's exit code
    (None where the pool killed it) and its crash file; or the kind of a message of `lab.execution.remote_progress`.
    content: what comes with the kind.
    """

    kind: str
    job: Job
    content: tuple[Any, ...] = ()


@dataclass
class Pool:
    """Starts workers, gives them jobs, and relays their messages.

    workers: number of workers.  threads: CPU threads of each worker.  gpus: names for CUDA_VISIBLE_DEVICES, which the
    workers get in turn; empty: the workers inherit it.  new_process: whether each run gets a new process.
    requested: number of workers that the user gave; None: as many as suit the machine.  modules: lab's modules that
    the runs need, imported before the workers are forked.  ranks: largest number of processes that a run trains in,
    each with a GPU.
    """

    workers: int = 1
    threads: int = 1
    gpus: Sequence[str] = ()
    new_process: bool = False
    requested: int | None = None
    modules: Sequence[str] = ()
    ranks: int = 1
    slots: dict[int, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="lab-"))
        self.context: BaseContext = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        start_fork_server(self.modules)
        self.environment = describe_environment()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def busy_slots(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.jobs]

    @property
    def has_free_slot(self) -> bool:
        return len(self.busy_slots) < self.workers

    def check(self, jobs: Sequence[Job], show: Callable[[str], None]) -> "PreflightReport":
        """The report of a preflight of the jobs, made in a worker.

        show: function called several times a second with what is being tried; what it raises ends the preflight.
        Raises RuntimeError if the worker dies, or hangs for longer than the jobs' `step_timeout`.
        """
        slot, timeout = self.idle_slot(), longest_step_timeout(jobs)
        worker, text, heard = slot.worker, "starting a worker", None
        worker.send(("check", jobs))
        try:
            while True:
                show(text)
                for _, message in receive([worker], POLL_SECONDS):
                    if message is None:
                        death = describe_death([worker.crash_file], worker.process.exitcode, timeout)
                        raise RuntimeError(f"trying ended its process ({text}): {death.message}")
                    kind, content = message
                    if kind == "checked":
                        return content
                    text, heard = content, time.monotonic()
                if timeout and heard and time.monotonic() - heard > timeout + FROZEN_GRACE:
                    raise RuntimeError(f"trying did not end in {timeout:g} s (step_timeout): {text}")
        except BaseException:
            self.slots.pop(worker.number, None)
            worker.end(patience=0)
            raise

    def share_gpus(self, gpus: int) -> None:
        """Divide this many GPUs among the workers. Unless the user gave a number of workers, it is chosen so that each
        process of a run has a GPU."""
        if not gpus:
            return
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.gpus = visible.split(",")[:gpus] if visible else [str(number) for number in range(gpus)]
        self.workers = self.requested or max(1, gpus // self.ranks)
        self.threads = threads_per_worker(self.workers)
        for slot in list(self.slots.values()):  # these workers see all GPUs; new ones will see their own
            self.dismiss(slot)

    def start(self, group: Sequence[Job]) -> None:
        """Give a group of jobs to a free worker."""
        slot = self.idle_slot()
        slot.jobs = {job.number: job for job in group}
        slot.step_timeout, slot.heard = longest_step_timeout(group), time.monotonic()
        slot.worker.send(("run", group))

    def idle_slot(self) -> Slot:
        """The slot of a worker without jobs, which is started where there is none. Its number, below `workers`, decides
        which GPUs it gets."""
        for slot in self.slots.values():
            if not slot.jobs and slot.worker.process.is_alive():
                return slot
        number = next(n for n in range(self.workers) if n not in self.slots or not self.slots[n].jobs)
        self.slots[number] = Slot(self.start_worker(number))
        return self.slots[number]

    def start_worker(self, number: int) -> Child:
        gpu_numbers = range(number * self.ranks, (number + 1) * self.ranks)
        gpus = ",".join(dict.fromkeys(self.gpus[n % len(self.gpus)] for n in gpu_numbers)) if self.gpus else None
        spec = WorkerSpec(
            directory=os.getcwd(),
            path=list(sys.path),
            environment=dict(os.environ),
            facts=self.environment,
            threads=self.threads,
            crash_file=self.scratch / f"{number}.txt",
            ignored=[number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN],
            start_method=multiprocessing.get_context().get_start_method(),
            gpus=gpus,
        )
        return start_child(self.context, serve_worker, f"lab worker {number}", number, spec.crash_file, spec)

    def events(self, timeout: float) -> Iterator[Event]:
        """The events since the last call; waits up to `timeout` seconds for the first. Kills a frozen worker, and
        one that was asked to stop more than STOP_GRACE seconds ago."""
        slots = {slot.worker.number: slot for slot in self.busy_slots}
        for worker, message in receive([slot.worker for slot in slots.values()], timeout):
            yield from self.handle(slots[worker.number], message)
        for slot in slots.values():
            if slot.jobs and slot.stopping_since and time.monotonic() - slot.stopping_since > STOP_GRACE:
                slot.killed = True
                slot.worker.kill()
            elif slot.is_frozen:
                with open(slot.worker.crash_file, "a", encoding="utf-8") as file:
                    file.write(FROZEN)
                slot.worker.kill()

    def handle(self, slot: Slot, message: tuple[Any, ...] | None) -> Iterator[Event]:
        """The events of a worker's message.  message: None where the worker has ended."""
        worker = slot.worker
        if message is None:
            del self.slots[worker.number]
            exitcode = None if slot.killed else worker.process.exitcode
            jobs, slot.jobs = list(slot.jobs.values()), {}
            yield from (Event("died", job, (exitcode, worker.crash_file)) for job in jobs)
            return
        slot.heard = time.monotonic()
        kind, number, *content = message
        if kind == "alive":
            return
        job = slot.jobs[number]
        if kind == "ended":
            del slot.jobs[number]
            slot.stopping_since = None
            if not slot.jobs and self.new_process:
                self.dismiss(slot)
        yield Event(kind, job, tuple(content))

    def stop(self, reason: str, job: Job | None = None, pruned: bool = False) -> None:
        """Ask the run of `job`, or all runs, to save and stop after the current step.  pruned: as in Outcome."""
        for slot in self.busy_slots:
            if (job is None or job.number in slot.jobs) and not slot.stopping_since:
                slot.stopping_since = time.monotonic()
                slot.worker.wake()
                slot.worker.send(("stop", job and job.number, reason, pruned))

    def dismiss(self, slot: Slot) -> None:
        """Close the channel of an idle worker, which ends it, and free its slot."""
        slot.worker.channel.close()
        del self.slots[slot.worker.number]

    def close(self) -> None:
        """End the workers: idle ones at once, busy ones after they have saved. Kills those that do not end in time."""
        slots = list(self.slots.values())
        for slot in slots:
            slot.worker.channel.close()
            slot.worker.wake()
            if not slot.jobs:
                slot.worker.kill()
        for slot in slots:
            slot.worker.end(patience=STOP_GRACE if slot.jobs else 5)
        self.slots.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int:
    """OMP_NUM_THREADS where it is set, as in a run that is no part of a sweep; else the worker's share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdecimal() and int(given) else max(1, available_cores() // workers)


def make_pool(configs: Sequence[Mapping[str, Any]], launcher: Mapping[str, Any]) -> Pool:
    """The pool for these runs on a machine without GPUs. It has as many workers as the launcher's options say, else the
    number of cores divided by the threads of all processes of a run.

    launcher: `workers` and `isolation`, as hydra/launcher=lab has them. Raises ValueError for values that are wrong.
    """
    requested, isolation = launcher.get("workers"), launcher.get("isolation", "worker")
    if requested is not None and (not isinstance(requested, int) or requested < 1):
        raise ValueError(f"hydra.launcher.workers={requested} is not a positive whole number, or null")
    if isolation not in ("worker", "process"):
        raise ValueError(f"hydra.launcher.isolation={isolation} is not worker or process")
    threads = max((config["hardware"].get("threads") or 1) * configured_ranks(config) for config in configs)
    workers = requested or max(1, available_cores() // threads)
    # each worker imports a project's own modules itself, since importing them may have any side effect
    targets = {path for config in configs[:100] for path in target_paths(config) if path.startswith("lab.")}
    return Pool(
        workers=min(workers, len(configs)),
        threads=threads_per_worker(workers),
        new_process=isolation == "process",
        requested=requested,
        modules=sorted({path.rpartition(".")[0] for path in targets}),
        ranks=max(map(configured_ranks, configs)),
    )


def configured_ranks(config: Mapping[str, Any]) -> int:
    """The number of processes that a run of a sweep trains in, by its config; null is one, on its worker's GPU."""
    return config["hardware"].get("processes") or 1
