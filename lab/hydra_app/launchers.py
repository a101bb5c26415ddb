"""The task given to third-party Hydra launchers (joblib, submitit, Ray): it runs one planned job."""

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import lab.config.hydra_setup  # noqa: F401  makes hydra_plugins.lab importable, which submitit needs to unpickle a requeued job
from lab.config.overrides import split_override
from lab.config.settings import Policy
from lab.execution.outcome import Outcome
from lab.hydra_app.slurm import await_requeue
from lab.identity.source_code import CodeWatch
from lab.record.files import is_locked
from lab.redact import redact_text
from lab.sweep.controller import FixedJobs, SweepController
from lab.sweep.plan import Job, Plan, job_status
from lab.sweep.pool import available_cores, make_pool
from lab.train.stop import StopSignal

QUIET_SECONDS = 10  # if no run is at work for so long, none is expected to start


class PlannedTask:
    """The task given to a launcher: it runs one job as planned, even if the config files have changed since.

    The run gets a process of its own, so that a run that dies ends neither the launcher's process nor its other jobs.
    """

    def __init__(self, plan: Plan, jobs: Sequence[Job]):
        self.sweep, self.sources = plan.directory, plan.sources
        self.directory, self.path = os.getcwd(), list(sys.path)
        self.launched_at = time.time()
        # submitit writes all of this into a file for each job: a tenth of a megabyte for a thousand jobs
        self.jobs = zlib.compress(pickle.dumps({job.directory.name: job for job in jobs}))

    def read_jobs(self) -> dict[str, Job]:
        """The planned jobs, by the names of their directories."""
        return pickle.loads(zlib.decompress(self.jobs))

    def __call__(self, _: DictConfig) -> Outcome | None:
        """The outcome; None where the job was not started."""
        os.chdir(self.directory)
        sys.path[:] = [*self.path, *(folder for folder in sys.path if folder not in self.path)]
        jobs = self.read_jobs()
        job = jobs[Path(HydraConfig.get().runtime.output_dir).name]
        policy = Policy.of(job.composed.resolved)
        if reason := self.why_not_started(policy, jobs):
            print(f"#{job.number} not started: {reason}", file=sys.stderr)
            return None
        if (
            multiprocessing.get_start_method(allow_none=True) == "loky"
        ):  # joblib's start method, which the run's process lacks
            multiprocessing.set_start_method("spawn", force=True)
        share_cores(len(jobs))
        stop = StopSignal.with_limits(policy.time_limit)
        requeue = signal.getsignal(signal.SIGUSR2)
        with (
            make_pool([job.composed.resolved], {"workers": 1}) as pool,
            stop.signals(),
            stop_before_requeue(stop, requeue),
        ):
            code = CodeWatch(self.sources)
            jobs_left = FixedJobs([without_callbacks(job)])
            controller = SweepController(self.sweep, jobs_left, pool, policy, PlainSweepView(), code, stop)
            controller.run()
        if controller.changed:
            changed = ", ".join(controller.changed)
            print(f"#{job.number} not started: {changed} changed since it was planned", file=sys.stderr)
        return controller.outcomes.get(job.number)

    def why_not_started(self, policy: Policy, jobs: Mapping[str, Job]) -> str | None:
        """The reason to start no more jobs, from the failures since the launch; None where there is none."""
        if policy.on_error != "stop" and not policy.max_failures:
            return None
        statuses = [job_status(job) for job in jobs.values()]
        failures = sum(
            status["state"] in ("failed", "diverged") and status.get("ended", 0) > self.launched_at
            for status in statuses
        )
        return policy.stop_reason(failures)

    def load_sweep_config(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """The planned config of a job. This replaces the method of Hydra's config loader by which launchers compose the
        config."""
        directory = Path(split_override(overrides[-1])[1])
        composed = self.read_jobs()[directory.name].composed
        config = copy.deepcopy(master)
        OmegaConf.set_readonly(config.hydra, None)
        OmegaConf.set_struct(config, False)
        for key in [str(key) for key in config if key != "hydra"]:
            del config[key]
        config.merge_with(OmegaConf.create(dict(composed.unresolved)))
        config.hydra.run.dir = config.hydra.sweep.subdir = str(directory)
        config.hydra.overrides.task = [redact_text(override) for override in composed.overrides]
        config.hydra.runtime.choices = dict(composed.choices)
        OmegaConf.set_struct(config, True)
        return config

    def wrap_loader(self, loader: ConfigLoader) -> ConfigLoader:
        """A copy of a config loader that gives the planned configs."""
        planned = copy.copy(loader)
        planned.load_sweep_config = self.load_sweep_config  # type: ignore[method-assign]
        return planned


def without_callbacks(job: Job) -> Job:
    """The job without Hydra's callbacks, which Hydra itself calls around the task of another launcher."""
    return replace(job, composed=replace(job.composed, hydra={**job.composed.hydra, "callbacks": {}}))


def launcher_overrides(job: Job) -> list[str]:
    """The overrides that a launcher displays for a job, and last the job's directory."""
    overrides = [redact_text(override) for override in job.composed.overrides]
    return [*overrides, f"hydra.sweep.subdir={job.directory.absolute()}"]


def share_cores(jobs: int) -> None:
    """Have the run in this process use the cores that SLURM gave to its task, or its share of this machine's, on which
    submitit_local starts all `jobs` at once. joblib and Ray say themselves how many threads there are to be."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        cores = str(max(1, available_cores() // jobs))
    if cores:
        os.environ.setdefault("OMP_NUM_THREADS", cores)


@contextmanager
def stop_before_requeue(stop: StopSignal, requeue: Any) -> Iterator[None]:
    """Have the run save and stop before submitit requeues its job. submitit announces the end of the job's time with
    SIGUSR2; its own handler of it, `requeue`, is called on leaving the context. SLURM preempts a job with SIGTERM."""
    if not callable(requeue):
        yield
        return
    frames: list[FrameType | None] = []

    def handle(number: int, frame: FrameType | None) -> None:
        frames.append(frame)
        stop.stop(signal.Signals(number).name)

    signal.signal(signal.SIGUSR2, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, requeue)
        if frames:
            requeue(signal.SIGUSR2, frames[0])
        elif stop.reason == "SIGTERM":
            await_requeue()


def wait_for_stragglers(jobs: Sequence[Job], queue_has_jobs: Callable[[], bool]) -> None:
    """Wait for the runs that go on, or are still queued, after the launcher has given up."""
    last_at_work = time.monotonic()
    while time.monotonic() - last_at_work < QUIET_SECONDS:
        if any(is_locked(job.directory) for job in jobs) or queue_has_jobs():
            last_at_work = time.monotonic()
        time.sleep(1)


class PlainSweepView:
    """A view for one process among many: it prints a line when the run ends."""

    def started(self, job: Job) -> None:
        pass

    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float]) -> None:
        pass

    def ended(self, job: Job, outcome: Outcome) -> None:
        error = f": {outcome.error}" if outcome.error else ""
        self.note(f"#{job.number} {outcome.state}{error}  {job.directory}")

    def note(self, text: str) -> None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
