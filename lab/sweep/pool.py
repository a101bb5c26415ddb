"""A pool of warm workers, supervised: a slot is refilled the moment its run ends, a worker that dies is replaced."""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.execution.outcome import describe_exit
from lab.identity.identity import target_paths
from lab.record.environment import describe_environment
from lab.sweep.plan import Job
from lab.sweep.worker import PRELOADED_MODULES, WorkerSpec, serve_worker

if TYPE_CHECKING:
    from lab.build.preflight_report import PreflightReport

STOP_GRACE = 60  # seconds for a step, its checkpoint and the way out, before a worker is killed


@dataclass
class Slot:
    """One worker.  job: what it does now.  gpu: the one it sees.  stopping: since when it has been asked to stop.
    killed: because it did not.
    """

    number: int
    process: BaseProcess
    channel: Connection
    scratch: Path
    job: Job | None = None
    stopping: float | None = None
    killed: bool = False


@dataclass(frozen=True)
class Event:
    """What a worker told.

    kind: ended, died, progress, scores or note.  content: by kind; of `died` the exit code, None where the pool killed
    it, and the file with what the crash left.
    """

    kind: str
    job: Job
    content: Any = None


@dataclass
class Pool:
    """workers: how many runs at once.  threads: of each.  gpus: what CUDA_VISIBLE_DEVICES may name; shared out in turn.
    fresh: whether each run has a process of its own.  asked: how many workers were asked for, None for as many as suit.
    ranks: the most processes that a run trains in, each with a GPU.
    modules: of lab's that the runs need, imported before the workers are forked.
    """

    workers: int = 1
    threads: int = 1
    gpus: Sequence[str] = ()
    fresh: bool = False
    asked: int | None = None
    modules: Sequence[str] = ()
    ranks: int = 1
    slots: dict[int, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="lab-"))
        self.context: BaseContext = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self.context.set_forkserver_preload([*PRELOADED_MODULES, *self.modules])  # imports torch once, for all
            forkserver.ensure_running()  # while it does, there is other work
        self.around = describe_environment()

    @property
    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.job]

    @property
    def free(self) -> bool:
        return len(self.busy) < self.workers

    def check(self, jobs: Sequence[Job]) -> "PreflightReport":
        """What a first worker finds out about the jobs before any of them starts. Raises RuntimeError if it dies."""
        slot = self.idle()
        slot.channel.send(("check", jobs))
        try:
            return slot.channel.recv()[1]
        except EOFError:
            del self.slots[slot.number]
            slot.process.join()
            said = describe_exit(slot.process.exitcode)
            raise RuntimeError(f"checking ended its process: {said}; lab train of one job alone shows more") from None

    def share(self, gpus: int) -> None:
        """Share out that many GPUs among the workers: one for each process of a run, where it was not said how many."""
        if not gpus:
            return
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.gpus = given.split(",")[:gpus] if given else [str(number) for number in range(gpus)]
        self.workers = self.asked or max(1, gpus // self.ranks)
        self.threads = max(1, available_cores() // self.workers)
        for slot in list(self.slots.values()):  # they see all GPUs
            self.dismiss(slot)

    def start(self, job: Job) -> None:
        slot = self.idle()
        slot.job = job
        with suppress(OSError):  # it died while it was idle, which the end of its channel tells
            slot.channel.send(("run", job))

    def idle(self) -> Slot:
        """A worker without a job, made where there is none. Its number, below `workers`, says which GPU is its own."""
        for slot in self.slots.values():
            if not slot.job and slot.process.is_alive():
                return slot
        number = next(n for n in range(self.workers) if n not in self.slots or not self.slots[n].job)
        self.slots[number] = self.made(number)
        return self.slots[number]

    def made(self, number: int) -> Slot:
        ours, theirs = self.context.Pipe()
        own = range(number * self.ranks, (number + 1) * self.ranks)
        gpu = ",".join(dict.fromkeys(self.gpus[n % len(self.gpus)] for n in own)) if self.gpus else None
        setup = WorkerSpec(
            directory=os.getcwd(),
            path=list(sys.path),
            environment=dict(os.environ),
            around=self.around,
            threads=self.threads,
            scratch=self.scratch / f"{number}.txt",
            gpu=gpu,
        )
        process = self.context.Process(target=serve_worker, args=(theirs, setup), name=f"lab worker {number}")  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return Slot(number, process, ours, setup.scratch)

    def events(self, timeout: float) -> Iterator[Event]:
        """What the workers told since, waiting for at most `timeout` seconds for the first word."""
        busy = self.busy
        heard = wait([slot.channel for slot in busy], timeout) if busy else time.sleep(timeout) or []
        for slot in busy:
            if slot.channel in heard:
                yield from self.heard(slot)
            if slot.job and slot.stopping and time.monotonic() - slot.stopping > STOP_GRACE:
                slot.killed = True
                slot.process.kill()

    def heard(self, slot: Slot) -> Iterator[Event]:
        job = slot.job
        assert job
        try:
            kind, content = slot.channel.recv()
        except (EOFError, OSError):
            slot.process.join()
            del self.slots[slot.number]
            yield Event("died", job, (None if slot.killed else slot.process.exitcode, slot.scratch))
            return
        if kind == "ended":
            slot.job, slot.stopping = None, None
            if self.fresh:
                self.dismiss(slot)
        yield Event(kind, job, content)

    def stop(self, reason: str, job: Job | None = None) -> None:
        """Ask the runs, or one of them, to save and stop after their step."""
        for slot in self.busy:
            if job in (None, slot.job) and not slot.stopping:
                slot.stopping = time.monotonic()
                with suppress(OSError):
                    slot.channel.send(("stop", reason))

    def dismiss(self, slot: Slot) -> None:
        slot.channel.close()
        del self.slots[slot.number]

    def close(self) -> None:
        """End the workers: those without a run at once, others once they have saved; what does not end is killed."""
        slots = list(self.slots.values())
        for slot in slots:
            slot.channel.close()
            if not slot.job:
                slot.process.terminate()
        for slot in slots:
            slot.process.join(STOP_GRACE if slot.job else 5)
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
        self.slots.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_pool(configs: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> Pool:
    """The pool that suits these runs on a machine without GPUs: as many workers as asked for, else the cores divided by
    the threads that all processes of a run want.

    asked: `workers` and `isolation`, as hydra/launcher=lab has them. Raises ValueError for what they cannot be.
    """
    workers, isolation = asked.get("workers"), asked.get("isolation", "worker")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"hydra.launcher.workers={workers} is not a positive whole number, or null")
    if isolation not in ("worker", "process"):
        raise ValueError(f"hydra.launcher.isolation={isolation} is not worker or process")
    threads = max((config["hardware"].get("threads") or 1) * num_ranks(config) for config in configs)
    number = workers or max(1, available_cores() // threads)
    # not a project's own: importing those may do anything, which is each worker's affair
    paths = {path for config in configs[:100] for path in target_paths(config) if path.startswith("lab.")}
    modules = sorted({path.rpartition(".")[0] for path in paths})
    fresh = isolation == "process"
    both = {"fresh": fresh, "ranks": max(map(num_ranks, configs))}
    return Pool(min(number, len(configs)), max(1, available_cores() // number), asked=workers, modules=modules, **both)


def num_ranks(config: Mapping[str, Any]) -> int:
    """In how many processes a run trains, where its config says so: in a sweep `null` is the one GPU of its worker."""
    return config["hardware"].get("processes") or 1
