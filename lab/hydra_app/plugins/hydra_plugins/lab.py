"""lab's sweeper and launcher, as Hydra's plugins. Hydra imports this file at every start, so that the methods import
what they need."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Plans the whole sweep, then has the launcher do the jobs that are not done.

    params: values of the keys to sweep, in Hydra's grammar, as if they were on the command line.
    """

    def __init__(self, params: Mapping[str, str] | None = None):
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from lab.hydra_app.planner import SweepPlanner, sweep_with_app

        params = [f"{key}={value}" for key, value in self.params.items()]
        return sweep_with_app(SweepPlanner(*self.setting), [*params, *arguments])


class LabLauncher(Launcher):
    """A pool of warm workers on this machine. Another sweeper's jobs go through it as well.

    workers: number of runs at once.  isolation: `worker`, or `process` for a new process for each run.
    """

    def __init__(self, workers: int | None, isolation: str):
        self.workers, self.isolation = workers, isolation

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lab.hydra_app.planner import SweepPlanner, launch_with_app

        overrides = [list(job) for job in job_overrides]
        return launch_with_app(SweepPlanner(*self.setting), overrides, initial_job_idx)
