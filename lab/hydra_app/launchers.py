"""What another of Hydra's launchers is given to do: planned jobs, wherever it does them."""

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import lab.config.hydra_setup  # noqa: F401  by it hydra_plugins.lab is found, where what submitit requeues is read
from lab.config.overrides import split_override
from lab.config.redact import redact_text
from lab.config.settings import Policy
from lab.execution.outcome import Outcome
from lab.execution.stop import StopSignal
from lab.identity.source_code import CodeWatch
from lab.record.files import is_locked
from lab.sweep.controller import FixedJobs, SweepController
from lab.sweep.plan import Job, Plan, job_status
from lab.sweep.pool import make_pool

QUIET_SECONDS = 10  # seconds without any run at work, after which none is expected to start


class PlannedTask:
    """A task for a launcher: a job as it was planned, whatever the configs have become since. The run has a process of
    its own, so that what ends it does not end the launcher's, and the launcher's other jobs with it.
    """

    def __init__(self, plan: Plan, jobs: Sequence[Job]):
        self.sweep, self.sources = plan.directory, plan.sources
        self.here, self.path = os.getcwd(), list(sys.path)
        self.since = time.time()
        # each job of submitit's is a file with all of this in it: a thousand jobs, a tenth of a megabyte
        self.jobs = zlib.compress(pickle.dumps({job.directory.name: job for job in jobs}))

    def __call__(self, _: DictConfig) -> Outcome | None:
        """The outcome; None where the job was not started."""
        os.chdir(self.here)
        sys.path[:] = [*self.path, *(place for place in sys.path if place not in self.path)]
        jobs = pickle.loads(zlib.decompress(self.jobs))
        job = jobs[Path(HydraConfig.get().runtime.output_dir).name]
        terms = Policy.of(job.asked.config)
        if said := self.enough(terms, jobs):
            print(f"#{job.number} not started: {said}", file=sys.stderr)
            return None
        if multiprocessing.get_start_method(allow_none=True) == "loky":  # joblib's own, which the run's process lacks
            multiprocessing.set_start_method("spawn", force=True)
        pool = make_pool([job.asked.config], {"workers": 1})
        pool.threads = int(os.environ.get("OMP_NUM_THREADS") or pool.threads)  # joblib and Ray share out the cores
        pulse = StopSignal.until(terms.time_limit)
        sweep = SweepController(
            self.sweep, FixedJobs([job]), pool, terms, PlainSweepView(), CodeWatch(self.sources), pulse
        )
        with stop_before_requeue(pulse), pulse.signals():
            try:
                sweep.run()
            finally:
                pool.close()
        if sweep.changed:
            changed = ", ".join(sweep.changed)
            print(f"#{job.number} not started: {changed} changed since it was planned", file=sys.stderr)
        return sweep.outcomes.get(job.number)

    def enough(self, terms: Policy, jobs: Mapping[str, Job]) -> str | None:
        """Why no more jobs are to be started; None where they are."""
        if terms.on_error != "stop" and not terms.max_failures:
            return None
        states = [job_status(job) for job in jobs.values()]
        bad = sum(s["state"] in ("failed", "diverged") and s.get("ended", 0) > self.since for s in states)
        if bad and terms.on_error == "stop":
            return "a run failed and on_error=stop"
        if terms.max_failures and bad >= terms.max_failures:
            return f"{bad} runs failed, max_failures={terms.max_failures}"
        return None

    def load_sweep_config(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """What launchers have the config loader do for each job, without composing anew."""
        jobs = pickle.loads(zlib.decompress(self.jobs))
        directory = Path(split_override(overrides[-1])[1])
        asked = jobs[directory.name].asked
        config = copy.deepcopy(master)
        OmegaConf.set_readonly(config.hydra, None)
        OmegaConf.set_struct(config, False)
        for key in [str(key) for key in config if key != "hydra"]:
            del config[key]
        config.merge_with(OmegaConf.create(dict(asked.source)))
        config.hydra.run.dir = config.hydra.sweep.subdir = str(directory)
        config.hydra.overrides.task = [redact_text(override) for override in asked.overrides]
        config.hydra.runtime.choices = dict(asked.choices)
        OmegaConf.set_struct(config, True)
        return config

    def loader(self, loader: ConfigLoader) -> ConfigLoader:
        """The same one, but that it gives the configs that were planned."""
        found = copy.copy(loader)
        found.load_sweep_config = self.load_sweep_config  # type: ignore[method-assign]
        return found


def launcher_overrides(job: Job) -> list[str]:
    """What a launcher shows of a job, and, last and not shown, where it is."""
    shown = [redact_text(override) for override in job.asked.overrides]
    return [*shown, f"hydra.sweep.subdir={job.directory.absolute()}"]


@contextmanager
def stop_before_requeue(pulse: StopSignal) -> Iterator[None]:
    """SIGUSR2, by which submitit announces the end of the job's time: the run saves and stops after its step, only then
    submitit requeues the job."""
    before = signal.getsignal(signal.SIGUSR2)
    if not callable(before):
        yield
        return
    heard: list[FrameType | None] = []

    def stop(number: int, frame: FrameType | None) -> None:
        heard.append(frame)
        pulse.stop(signal.Signals(number).name)

    signal.signal(signal.SIGUSR2, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)
        if heard:
            before(signal.SIGUSR2, heard[0])


def wait_for_stragglers(jobs: Sequence[Job]) -> None:
    """Wait for the runs that go on though the launcher has given up."""
    heard = time.monotonic()
    while time.monotonic() - heard < QUIET_SECONDS:
        if any(is_locked(job.directory) for job in jobs):
            heard = time.monotonic()
        time.sleep(1)


class PlainSweepView:
    """A view for a process among others: a line when the run ends."""

    def started(self, job: Job) -> None:
        pass

    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float]) -> None:
        pass

    def ended(self, job: Job, outcome: Outcome) -> None:
        said = f": {outcome.error}" if outcome.error else ""
        self.note(f"#{job.number} {outcome.state}{said}  {job.directory}")

    def note(self, text: str) -> None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
