"""A warm child of a sweep: it has imported torch once, and does one run after another, each as in a new process."""

import gc
import logging
import os
import queue
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.config.errors import ConfigError
from lab.config.settings import Policy
from lab.config.targets import is_project_source
from lab.record.files import Owned, has_owner
from lab.study.job import Outcome, Refused, Terms, do
from lab.study.plan import Job
from lab.study.pulse import Pulse

# imported once, by the process that the workers are forked from
WARM = (
    *("lab.config.preflight", "lab.record.record", "lab.record.tensorboard", "lab.study.worker"),
    *("torch._dynamo", "tensorboard.summary.writer.event_file_writer", "tensorboard.plugins.hparams.summary_v2"),
)
SHOW_EVERY = 0.25  # seconds between two reports of progress
GRACE = 30  # seconds that a worker takes to save when its supervisor has gone


@dataclass(frozen=True)
class Setup:
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

    def __init__(self, channel: Connection, setup: Setup):
        self.channel, self.setup = channel, setup
        self.tasks: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self.pulse = Pulse()
        self.used = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's goes to the supervisor, which tells
        take_over(setup)
        self.new = Settings()

    def work(self) -> None:
        from lab.config.preflight import preflight

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
                        self.pulse = pulse_of(content)
                    self.tasks.put((kind, content))
        except (EOFError, OSError):  # the supervisor has gone, or wants no more
            self.pulse.stop("the sweep's process has gone")
            self.tasks.put(None)
            time.sleep(GRACE)
            os._exit(1)

    def ended(self, job: Job) -> Outcome | Exception:
        place = job.directory.absolute()
        terms = Terms(self.pulse, lambda steps: Reporter(self, steps), self.setup.around, checked=True)
        try:
            with self.pulse.signals(), self.pulse.watch(self.setup.scratch), output_to_run(job.directory):
                apply_job_settings(job)
                return replace(do(job.asked, job.identity, place, terms), directory=job.directory)
        except (ConfigError, Refused, Owned) as error:
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


def take_over(setup: Setup) -> None:
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


def serve(channel: Connection, setup: Setup) -> None:
    """A worker's whole life."""
    Worker(channel, setup).work()


def pulse_of(job: Job) -> Pulse:
    return Pulse(Policy.of(job.asked.config).step_timeout)


class Reporter:
    """Progress, told to the supervisor."""

    def __init__(self, worker: Worker, steps: int):
        self.worker, self.steps, self.sent = worker, steps, 0.0

    def __enter__(self) -> "Reporter":
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
def output_to_run(directory: Path) -> Iterator[None]:
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
        if not has_owner(directory):  # else another process is at it, and writes to the same file
            with suppress(OSError):  # it may just have been
                if not path.stat().st_size:
                    path.unlink()
                if made and not any(directory.iterdir()):
                    directory.rmdir()


class Settings:
    """The settings of a process that a run may change, as they are now; `restore` brings them back."""

    def __init__(self) -> None:
        import numpy
        import torch

        self.threads, self.dtype = torch.get_num_threads(), torch.get_default_dtype()
        self.precision = torch.get_float32_matmul_precision()
        self.generators = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
        self.environment, self.directory, self.path = dict(os.environ), os.getcwd(), list(sys.path)
        root = logging.getLogger()
        self.level, self.handlers, self.disabled = root.level, list(root.handlers), root.manager.disable
        self.filters = list(warnings.filters)
        self.modules = set(sys.modules)
        self.streams, self.numpy_errors = (sys.stdout, sys.stderr), numpy.geterr()
        os.umask(umask := os.umask(0o077))
        self.umask = umask

    def restore(self) -> None:
        import torch

        self.forget_projects_modules()
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[:] = self.path
        root = logging.getLogger()
        root.handlers[:], root.manager.disable = self.handlers, self.disabled
        root.setLevel(self.level)
        sys.stdout, sys.stderr = self.streams
        os.umask(self.umask)
        warnings.filters[:] = self.filters  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]
        self.restore_torch()
        if "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
        gc.collect()
        gc.freeze()  # what is still there stays: 20,000 objects less to look at after the next run
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def forget_projects_modules(self) -> None:
        """The project's code is imported anew by each run, as what it keeps at the top of a module may change."""
        for name in sys.modules.keys() - self.modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and not name.startswith("lab.") and is_project_source(Path(file)):
                del sys.modules[name]

    def restore_torch(self) -> None:
        import numpy
        import torch

        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        torch.autograd.set_detect_anomaly(False)
        torch.set_flush_denormal(False)
        for device in ("cpu", "cuda"):
            torch.set_autocast_enabled(device, False)
        for _ in range(torch.autocast_increment_nesting()):  # as long as it is nested it keeps casts of old weights
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        numpy.seterr(**self.numpy_errors)
        torch.set_rng_state(self.generators[0])
        numpy.random.set_state(self.generators[1])
        random.setstate(self.generators[2])
        signal.alarm(0)
