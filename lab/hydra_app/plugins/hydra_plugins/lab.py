"""Hydra's doors to lab's sweeps. Hydra imports this file at every start: what it needs is imported in the methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Plans the whole sweep, then has the launcher do what is missing.

    params: keys to sweep, to their values in Hydra's grammar, as if they were on the command line.
    """

    def __init__(self, params: Mapping[str, str] | None = None):
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from lab.hydra_app.planner import SweepPlanner

        params = [f"{key}={value}" for key, value in self.params.items()]
        return SweepPlanner(*self.given).sweep([*params, *arguments])


class LabLauncher(Launcher):
    """A pool of warm workers on this machine. Another sweeper's jobs go through it as well.

    workers: how many runs at once.  isolation: `worker`, or `process` for a new process each run.
    """

    def __init__(self, workers: int | None, isolation: str):
        self.workers, self.isolation = workers, isolation

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lab.hydra_app.planner import SweepPlanner

        sweeping = SweepPlanner(*self.given)
        return sweeping.launch([list(overrides) for overrides in job_overrides], initial_job_idx)
