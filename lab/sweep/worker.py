"""A worker of a sweep: it imports torch once and does one run after another, each as if in a new process."""

import gc
import multiprocessing
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
from typing import TYPE_CHECKING, Any

from lab.config.hydra_job import HydraNodes, hydra_job
from lab.config.settings import Policy
from lab.errors import LabError
from lab.execution.outcome import Outcome, RunOptions
from lab.execution.remote_progress import PipeProgress
from lab.execution.run_job import run_job
from lab.interpreter import collect_as_usual
from lab.record.files import file_if_written, is_locked, make_directory, open_to_append
from lab.sweep.plan import Job
from lab.sweep.process_state import ProcessState
from lab.train.stop import STOP_SIGNALS, StopSignal, Watchdog

if TYPE_CHECKING:
    from lab.assembly.preflight_report import PreflightReport

ORPHAN_GRACE = 30  # seconds in which a worker may save after its supervisor has ended


@dataclass(frozen=True)
class WorkerSpec:
    """The settings that a worker takes over from its supervisor.

    directory, path, environment: working directory, sys.path and os.environ.  facts: description of the environment,
    for manifests.  threads: number of torch's CPU threads.  crash_file: file for the report of a crash.
    start_method: multiprocessing's, for the processes that a run starts, such as loader workers.  ignored: stop signals
    that the supervisor ignores.  gpus: value for CUDA_VISIBLE_DEVICES; None: as inherited.
    """

    directory: str
    path: Sequence[str]
    environment: Mapping[str, str]
    facts: Mapping[str, Any]
    threads: int
    crash_file: Path
    start_method: str
    ignored: Sequence[signal.Signals] = ()
    gpus: str | None = None


def serve_worker(channel: Connection, spec: WorkerSpec) -> None:
    """The whole life of a worker's process."""
    Worker(channel, spec).work()


class Worker:
    """Receives ("run", group of jobs), ("check", jobs) or ("stop", number of a job or None for all, reason, pruned)
    from the supervisor. Answers a check with ("trying", text) and last ("checked", PreflightReport), and each job of a
    run with messages (kind, number of the job, ...): progress, notes, and last ("ended", number, outcome or error).
    """

    def __init__(self, channel: Connection, spec: WorkerSpec):
        self.channel, self.spec = channel, spec
        self.tasks: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self.stops: dict[int, StopSignal] = {}  # of the jobs that have not ended, by number
        self.hydra_nodes = HydraNodes()
        self.is_used = False
        enter_worker(spec)
        receive_signals(spec.ignored)
        self.initial_state = ProcessState()

    def work(self) -> None:
        """Do tasks until the supervisor closes the channel."""
        threading.Thread(target=self.listen, daemon=True).start()
        while (task := self.tasks.get()) is not None:
            kind, jobs = task
            if kind == "check":
                self.restore_process()
                self.send(("checked", self.check(jobs)))
            for job in jobs if kind == "run" else ():
                self.restore_process()
                result = self.run(job, self.stops[job.number])
                del self.stops[job.number]
                self.send(("ended", job.number, result))

    def restore_process(self) -> None:
        """Put the process back into the state of a new one."""
        if self.is_used:
            self.initial_state.restore()
        self.is_used = True

    def listen(self) -> None:
        """Receive the supervisor's messages while the main thread trains."""
        try:
            while True:
                kind, *content = self.channel.recv()
                if kind == "stop":
                    number, reason, pruned = content
                    for running, stop in list(self.stops.items()):
                        if number in (None, running):
                            stop.stop(reason, pruned)
                    continue
                (jobs,) = content
                if kind == "run":  # made here, so that a stop that comes before the run begins counts
                    self.stops |= {job.number: self.make_stop(job) for job in jobs}
                self.tasks.put((kind, jobs))
        except (EOFError, OSError):  # the supervisor has ended, or has closed the channel
            for stop in list(self.stops.values()):
                stop.stop("the sweep's process has gone")
            self.tasks.put(None)
            time.sleep(ORPHAN_GRACE)
            os._exit(1)

    def check(self, jobs: Sequence[Job]) -> "PreflightReport":
        """Try the jobs. A try that takes longer than `step_timeout` ends the process."""
        from lab.assembly.preflight import preflight

        watchdog = Watchdog(longest_step_timeout(jobs))

        def show(text: str) -> None:
            watchdog.restart()
            self.send(("trying", text))

        with file_if_written(self.spec.crash_file) as crash_file, watchdog.watch(crash_file):
            return preflight(jobs, show)

    def make_stop(self, job: Job) -> StopSignal:
        timeout = Policy.of(job.composed.resolved).step_timeout
        return StopSignal(watchdog=Watchdog(timeout, lambda: self.send(("alive", job.number))))

    def run(self, job: Job, stop: StopSignal) -> Outcome | LabError | RuntimeError:
        """Do one job. Gives its outcome, or the error that kept it from starting."""
        from lab.record.recording import describe_error

        def send(message: tuple[Any, ...]) -> None:
            kind, *content = message
            self.send((kind, job.number, *content))

        options = RunOptions(stop, lambda steps: PipeProgress(send, steps), self.spec.facts, is_checked=True)
        absolute = job.directory.absolute()
        try:
            with (
                stop.signals(),
                file_if_written(self.spec.crash_file) as crash_file,
                stop.watchdog.watch(crash_file),
                redirect_output(job.directory),
                hydra_job(job.composed, absolute, self.hydra_nodes) as set_error,
            ):
                outcome = run_job(job.composed, job.identity, absolute, options)
                set_error(None if outcome.state == "done" else f"{absolute} is {outcome.state}")
                return replace(outcome, directory=job.directory)
        except LabError as error:
            return error
        except KeyboardInterrupt:  # not of Ctrl-C, which this process ignores
            return RuntimeError("KeyboardInterrupt was raised by the run itself")
        except Exception as error:  # a bug: the other runs go on
            import traceback

            message = "".join(traceback.format_exception(error))
            return Outcome(job.directory, "failed", error=message, outside=describe_error(error)[1])

    def send(self, message: Any) -> None:
        with suppress(OSError):  # the supervisor has ended; the run's directory has everything
            self.channel.send(message)


def longest_step_timeout(jobs: Sequence[Job]) -> float | None:
    """The longest `step_timeout` of the jobs, in seconds; None where one of them has no limit, or it is no number."""
    try:
        timeouts = [Policy.of(job.composed.resolved).step_timeout for job in jobs]
    except (LookupError, TypeError, ValueError):  # the check reports the problem
        return None
    return None if None in timeouts else max((timeout for timeout in timeouts if timeout), default=None)


def receive_signals(ignored: Sequence[signal.Signals]) -> None:
    """Set handlers of stop signals, which are blocked when a worker starts. A run sets its own; without a run, a worker
    just goes on. Ctrl-C is the supervisor's, which asks the workers to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *STOP_SIGNALS})


def enter_worker(spec: WorkerSpec) -> None:
    """Give this process the worker's directory, environment, sys.path and threads, and no standard streams."""
    import torch

    multiprocessing.set_start_method(spec.start_method, force=True)  # else it is that by which this process was started
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # else a reader of the supervisor's output would wait until the workers end too
        os.dup2(null, number)
    os.chdir(spec.directory)
    os.environ.clear()
    os.environ.update(spec.environment)
    if spec.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.gpus
    sys.path[:] = spec.path
    torch.set_num_threads(spec.threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for other libraries, and for loader workers
        os.environ.setdefault(name, str(spec.threads))
    gc.freeze()  # imported modules stay, so that collections after a run need not look at them
    collect_as_usual()


@contextmanager
def redirect_output(directory: Path) -> Iterator[None]:
    """Redirect the process's standard output and error to output.txt in the run's directory. An empty file is removed
    afterwards, and so is a directory that is new and empty."""
    sys.stdout.flush()
    sys.stderr.flush()
    directory = directory.absolute()
    is_new = not directory.exists()
    make_directory(directory)
    path = directory / "output.txt"
    output = open_to_append(path)
    saved = os.dup(1), os.dup(2)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        if not is_locked(directory):  # else another process does this run and writes to the same file
            with suppress(OSError):  # another process may have begun just now
                if not path.stat().st_size:
                    path.unlink()
                if is_new and not any(directory.iterdir()):
                    directory.rmdir()
