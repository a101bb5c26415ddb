"""A warm child of a sweep: it has imported torch once, and does one run after another, each as in a new process."""

import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.config.settings import Policy
from lab.errors import ConfigError, Refused, RunInUse
from lab.execution.outcome import Outcome, RunOptions
from lab.execution.run_job import run_job
from lab.execution.stop import StopSignal
from lab.record.files import is_locked
from lab.sweep.plan import Job
from lab.sweep.process_state import ProcessState

# imported once, by the process that the workers are forked from
PRELOADED_MODULES = (
    *("lab.build.preflight", "lab.record.record", "lab.record.tensorboard", "lab.sweep.worker"),
    *("torch._dynamo", "tensorboard.summary.writer.event_file_writer", "tensorboard.plugins.hparams.summary_v2"),
)
SHOW_EVERY = 0.25  # seconds between two reports of progress
ORPHAN_GRACE = 30  # seconds that a worker takes to save when its supervisor has gone


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker takes over from its supervisor.

    around: for manifests.  threads: of torch.  scratch: a file for what a crash leaves.  gpu: the one that it sees.
    """

    directory: str
    path: Sequence[str]
    environment: Mapping[str, str]
    around: Mapping[str, Any]
    threads: int
    scratch: Path
    gpu: str | None = None


class Worker:
    """channel: to the supervisor. Comes ("run", Job), ("check", jobs) or ("stop", reason); goes what became of it."""

    def __init__(self, channel: Connection, setup: WorkerSpec):
        self.channel, self.setup = channel, setup
        self.tasks: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self.pulse = StopSignal()
        self.used = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's goes to the supervisor, which tells
        enter_worker(setup)
        self.new = ProcessState()

    def work(self) -> None:
        from lab.build.preflight import preflight

        threading.Thread(target=self.listen, daemon=True).start()
        while (task := self.tasks.get()) is not None:
            kind, content = task
            if self.used:
                self.new.restore()
            self.used = True
            if kind == "run":
                self.send("ended", self.ended(content))
            else:
                self.send("checked", preflight(content))

    def listen(self) -> None:
        """Take what the supervisor sends, while the main thread trains."""
        try:
            while True:
                kind, content = self.channel.recv()
                if kind == "stop":
                    self.pulse.stop(content)
                else:
                    if kind == "run":  # made here, so that a stop that follows is not missed
                        self.pulse = stop_signal_for(content)
                    self.tasks.put((kind, content))
        except (EOFError, OSError):  # the supervisor has gone, or wants no more
            self.pulse.stop("the sweep's process has gone")
            self.tasks.put(None)
            time.sleep(ORPHAN_GRACE)
            os._exit(1)

    def ended(self, job: Job) -> Outcome | Exception:
        place = job.directory.absolute()
        terms = RunOptions(self.pulse, lambda steps: WorkerProgress(self, steps), self.setup.around, checked=True)
        try:
            with self.pulse.signals(), self.pulse.watch(self.setup.scratch), redirect_output(job.directory):
                apply_job_settings(job)
                return replace(run_job(job.asked, job.identity, place, terms), directory=job.directory)
        except (ConfigError, Refused, RunInUse) as error:
            return error
        except KeyboardInterrupt:  # the keyboard's own does not come here
            return RuntimeError("KeyboardInterrupt was raised by the run itself")
        except Exception as error:  # nobody foresaw it; the other runs go on
            import traceback

            said = "".join(traceback.format_exception(error))
            return Outcome(job.directory, "failed", {}, error=said, outside=isinstance(error, OSError))

    def send(self, kind: str, content: Any) -> None:
        with suppress(OSError):  # the supervisor has gone; the run's directory has it all
            self.channel.send((kind, content))


def apply_job_settings(job: Job) -> None:
    """What Hydra does for a job: its environment variables, and its directory as the working directory."""
    settings = job.asked.hydra.get("job", {})
    os.environ.update({str(name): str(value) for name, value in (settings.get("env_set") or {}).items()})
    if settings.get("chdir"):
        os.chdir(job.directory)


def enter_worker(setup: WorkerSpec) -> None:
    import torch

    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # who waits for the supervisor's output to end need not wait for its workers
        os.dup2(nowhere, number)
    os.chdir(setup.directory)
    os.environ.clear()
    os.environ.update(setup.environment)
    if setup.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpu
    sys.path[:] = setup.path
    torch.set_num_threads(setup.threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # of libraries that read it, and of loader workers
        os.environ.setdefault(name, str(setup.threads))
    gc.freeze()  # what is imported lives on: collecting after a run need not look at it


def serve_worker(channel: Connection, setup: WorkerSpec) -> None:
    """A worker's whole life."""
    Worker(channel, setup).work()


def stop_signal_for(job: Job) -> StopSignal:
    return StopSignal(Policy.of(job.asked.config).step_timeout)


class WorkerProgress:
    """Progress, told to the supervisor."""

    def __init__(self, worker: Worker, steps: int):
        self.worker, self.steps, self.sent = worker, steps, 0.0

    def __enter__(self) -> "WorkerProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self.sent > SHOW_EVERY:
            self.sent = now
            self.worker.send("progress", (step, self.steps, values))

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.worker.send("scores", (step, self.steps, values))

    def note(self, text: str) -> None:
        self.worker.send("note", text)


@contextmanager
def redirect_output(directory: Path) -> Iterator[None]:
    """What the run's code prints goes to output.txt beside its other files, where that has something to hold."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    directory = directory.absolute()
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "output.txt"
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        if not is_locked(directory):  # else another process is at it, and writes to the same file
            with suppress(OSError):  # it may just have been
                if not path.stat().st_size:
                    path.unlink()
                if made and not any(directory.iterdir()):
                    directory.rmdir()
