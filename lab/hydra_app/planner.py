"""Makes the plan of a sweep from its arguments: override lists, composed configs, identities, directories."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lab.config.compose import Composer
from lab.config.composed import ComposedConfig
from lab.config.overrides import swept_keys
from lab.config.sweep_grid import expand_sweep
from lab.errors import ConfigError
from lab.hydra_app.app import HydraApp
from lab.hydra_app.launchers import PlannedTask, launcher_overrides, wait_for_stragglers
from lab.hydra_app.resolvers import is_in_outputs
from lab.hydra_app.slurm import watch_queue
from lab.identity.identity import Identity
from lab.identity.run_directory import run_directory, runs_folder
from lab.ledger.listing import runs_by_id
from lab.ledger.saved_run import SavedRun
from lab.sweep.plan import Job, Plan, mark_duplicates, sweep_name
from lab.text import relative_to_cwd

OWN_PLUGINS = "hydra_plugins.lab."


class SweepPlanner:
    """Plans the sweeps of a HydraApp, for lab's sweeper and launcher.

    master: config that Hydra composed for the sweep.  launcher_failed: whether another launcher raised an exception.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, master: DictConfig):
        if not isinstance(task, HydraApp):
            raise ConfigError("lab's sweeper and launcher do lab's runs alone; give hydra/sweeper=basic")
        self.app, self.context, self.master = task, context, master
        self.compose = Composer(context.config_loader, master)
        self.launcher_failed = False

    @property
    def loader(self) -> Any:
        return self.context.config_loader

    @property
    def choices(self) -> dict[str, Any]:
        """The option chosen of each group, in the sweep's first config."""
        return dict(self.master.hydra.runtime.choices)

    @property
    def search_node(self) -> dict[str, Any] | None:
        """The config's `search`, as plain values; None where the sweep is no search."""
        return self._plain("search")

    @property
    def sweep_spec(self) -> Any:
        """The config's `sweep`, as plain values, or None."""
        return self._plain("sweep")

    def _plain(self, key: str) -> Any:
        return OmegaConf.to_container(self.master[key], resolve=True) if self.master.get(key) else None

    @cached_property
    def launcher_options(self) -> dict[str, Any]:
        """The options of lab's launcher; empty where the config chooses another launcher."""
        if not self.uses_own_launcher:
            return {}
        return cast(dict[str, Any], OmegaConf.to_container(self.master.hydra.launcher, resolve=True))

    @property
    def uses_own_launcher(self) -> bool:
        return str(self.master.hydra.launcher["_target_"]).startswith(OWN_PLUGINS)

    def expand(self, arguments: Sequence[str]) -> list[list[str]]:
        """The overrides of each job of a sweep."""
        return expand_sweep(arguments, self.loader, self.sweep_spec)

    def parse_overrides(self, arguments: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.loader).parse_overrides(list(arguments))

    def plan(self, overrides: Sequence[Sequence[str]], first: int = 0) -> Plan:
        """The plan of jobs with these overrides, numbered from `first`. Raises ConfigError with all jobs' problems."""
        composed = self.compose_jobs(list(enumerate(overrides, start=first)))
        runs_folder(next(iter(composed.values())))
        identities = {number: self.app.identify(job.resolved) for number, job in composed.items()}
        keys = swept_keys([job.overrides for job in composed.values()])
        sweep = self.name_sweep(keys, [identity.id for identity in identities.values()])
        jobs = mark_duplicates(self.make_jobs(composed, sweep, identities))
        return Plan(sweep, jobs, self.app.identify.source_hashes())

    def compose_jobs(self, numbered: Sequence[tuple[int, Sequence[str]]]) -> dict[int, ComposedConfig]:
        """The composed config of each job by number. Raises ConfigError with all jobs' problems."""
        composed: dict[int, ComposedConfig] = {}
        problems: dict[str, int] = {}
        for number, overrides in numbered:
            try:
                composed[number] = self.compose(number, overrides)
            except ConfigError as error:
                for problem in error.problems:
                    problems.setdefault(problem, number)
        if problems:
            several = len(numbered) > 1
            raise ConfigError(*(f"{text} (job {number})" if several else text for text, number in problems.items()))
        return composed

    def name_sweep(self, keys: Sequence[str], identities: Sequence[str]) -> Path:
        """The sweep's directory.  keys: keys for its name.  identities: ids of its runs, or other facts to hash."""
        experiment = self.master.hydra.runtime.choices.get("experiment")
        self.app.sweep_name = sweep_name([*([str(experiment)] if experiment else []), *keys], identities)
        return relative_to_cwd(Path(self.master.hydra.sweep.dir))

    def make_jobs(
        self, composed: Mapping[int, ComposedConfig], sweep: Path, identities: Mapping[int, Identity] | None = None
    ) -> list[Job]:
        """The jobs of composed configs, by number.  identities: identities of the configs; None: they are computed."""
        identities = identities or {number: self.app.identify(job.resolved) for number, job in composed.items()}
        existing = None
        if is_in_outputs(self.master):
            existing = runs_by_id(runs_folder(next(iter(composed.values()))))
        return [
            Job(number, job, identities[number], job_directory(sweep, number, job, identities[number].id, existing))
            for number, job in composed.items()
        ]

    def launch_elsewhere(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Have another of Hydra's launchers do the jobs. Their outcomes are in their directories."""
        OmegaConf.set_readonly(self.master.hydra, False)  # Hydra 1.4 makes it read-only
        OmegaConf.update(self.master, "hydra.sweep.dir", str(plan.directory.absolute()))
        for name in (
            "lab.run_dir",
            "lab.job_dir",
            "lab.sweep_dir",
        ):  # no longer needed, and their functions cannot be pickled
            OmegaConf.clear_resolver(name)
        task = PlannedTask(plan, jobs)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(task.wrap_loader(self.loader), self.context.callbacks),
            task_function=task,
            config=self.master,
        )
        is_slurm = type(launcher).__name__ == "SlurmLauncher"
        queue_has_jobs = watch_queue() if is_slurm and shutil.which("squeue") else lambda: False
        try:
            launcher.launch([launcher_overrides(job) for job in jobs], initial_job_idx=0)
        except Exception as error:  # for instance, a job's process died; other jobs may be done
            message = next(iter(str(error).splitlines()), "")
            print(
                f"lab: {type(launcher).__name__} gave up: {type(error).__name__}: {message}; the same command takes up "
                "the remaining runs",
                file=sys.stderr,
            )
            self.launcher_failed = True
            wait_for_stragglers(jobs, queue_has_jobs)


def job_directory(
    sweep: Path, number: int, composed: ComposedConfig, identity: str, existing: Mapping[str, Path] | None
) -> Path:
    """The directory of a job's run.  existing: runs of outputs/ by id; None for a sweep that keeps its runs in its own
    directory."""
    if existing is None:
        return sweep / f"{number}-{identity}"
    return relative_to_cwd(run_directory(composed, identity, existing))


def sweep_with_app(planner: SweepPlanner, arguments: Sequence[str]) -> None:
    """Called by lab's sweeper: pass the arguments to the command's function."""
    planner.app.code = planner.app.sweep(planner, arguments)


def launch_with_app(planner: SweepPlanner, overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Called by lab's launcher for another sweeper: do a batch of its jobs. Gives the monitored score of each job,
    which the sweeper may optimize."""
    app = planner.app
    if app.batch is None:
        raise ConfigError(f"lab {app.verb} goes by lab's own sweeper; leave hydra/sweeper= out")
    plan = planner.plan(overrides, first)
    app.code = app.batch(plan, planner.launcher_options) or app.code
    # Hydra's BasicSweeper, which needs no value, would stop at a failed job and skip its later batches
    is_basic = str(planner.master.hydra.sweeper["_target_"]).endswith(".BasicSweeper")
    returns = []
    for job in plan.jobs:
        run = SavedRun(job.directory)
        score = run.results.get(str(run.monitor.get("name")))
        status = JobStatus.COMPLETED if score is not None or is_basic else JobStatus.FAILED
        value = score if score is not None else RuntimeError(f"{job.directory} is {run.state}")
        returns.append(JobReturn(overrides=job.composed.overrides, status=status, _return_value=value))
    return returns
