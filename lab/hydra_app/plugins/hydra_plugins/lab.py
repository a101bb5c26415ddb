"""lab's sweeper and launcher, as Hydra's plugins. Hydra imports this file at every start, so the methods import their
modules themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Passes a sweep's arguments to the command, which plans the whole sweep and does the jobs that are not done.

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
    """Does jobs in a pool of workers on this machine, also those of another sweeper.

    workers: number of runs at once; None: as many as suit the machine.  isolation: `worker`, or `process` for a new
    process for each run.
    """

    def __init__(self, workers: int | None, isolation: str):
        self.workers, self.isolation = workers, isolation

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lab.hydra_app.planner import SweepPlanner, launch_with_app

        overrides = [list(job) for job in job_overrides]
        return launch_with_app(SweepPlanner(*self.setting), overrides, initial_job_idx)
