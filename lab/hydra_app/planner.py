"""A sweep, from Hydra's sweeper to the exit code: planned, checked, done by a pool or by another launcher."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lab.cli.output import relative_to_cwd
from lab.cli.run_sweep import run_sweep
from lab.config.compose import Composer
from lab.config.composed import ComposedConfig
from lab.config.overrides import swept_keys
from lab.config.sweep_grid import expand_sweep
from lab.errors import EXIT_FAILED, ConfigError
from lab.hydra_app.app import HydraApp
from lab.hydra_app.launchers import PlannedTask, launcher_overrides, wait_for_stragglers
from lab.hydra_app.resolvers import is_in_outputs
from lab.identity.run_directory import run_directory, runs_by_id, runs_folder
from lab.sweep.plan import Job, Plan, job_monitor, job_results, job_status, mark_duplicates, sweep_name

OWN_PLUGINS = "hydra_plugins.lab."


class SweepPlanner:
    """What lab's sweeper and launcher do, for the session whose task Hydra was given."""

    def __init__(self, context: HydraContext, task: TaskFunction, master: DictConfig):
        self.session: HydraApp = getattr(task, "__self__", None)  # type: ignore[assignment]
        if not isinstance(self.session, HydraApp):
            raise ConfigError("lab's sweeper and launcher do lab's runs alone; give hydra/sweeper=basic")
        self.context, self.task, self.master = context, task, master
        self.compose = Composer(context.config_loader, master)
        self.gave_up = False  # another launcher

    def sweep(self, arguments: Sequence[str]) -> None:
        if self.session.sweep:
            self.session.code = self.session.sweep(self, arguments)
            return
        if self.master.get("search"):
            from lab.cli.run_search import run_search

            self.session.code = run_search(self, arguments)
            return
        spec = OmegaConf.to_container(self.master.sweep, resolve=True) if self.master.get("sweep") else None
        overrides = expand_sweep(arguments, self.context.config_loader, spec)
        plan = self.planned(overrides)
        own = str(self.master.hydra.launcher["_target_"]).startswith(OWN_PLUGINS)
        by = None if own else self.other_launcher
        code = run_sweep(plan, self.workers() if own else {}, verb=self.session.verb, by=by)
        self.session.code = EXIT_FAILED if code and self.gave_up else code

    def workers(self) -> dict[str, Any]:
        return cast(dict[str, Any], OmegaConf.to_container(self.master.hydra.launcher, resolve=True))

    def planned(self, overrides: Sequence[Sequence[str]], first: int = 0) -> Plan:
        """The jobs of these override lists. Raises ConfigError with every problem of every job."""
        asked = self.asked(list(enumerate(overrides, start=first)))
        runs_folder(next(iter(asked.values())))
        identities = [self.session.identify(one.config) for one in asked.values()]
        keys = swept_keys([one.overrides for one in asked.values()])
        sweep = self.directory(keys, [identity.id for identity in identities])
        return Plan(sweep, mark_duplicates(self.jobs(asked, sweep)), self.session.identify.hashes())

    def asked(self, overrides: Sequence[tuple[int, Sequence[str]]]) -> dict[int, ComposedConfig]:
        """What the jobs of these numbers are asked for. Raises ConfigError with every problem of every job."""
        asked, problems = {}, {}
        for number, one in overrides:
            try:
                asked[number] = self.compose(number, one)
            except ConfigError as error:
                for problem in error.problems:
                    problems.setdefault(problem, number)
        if problems:
            several = len(overrides) > 1
            raise ConfigError(*(f"{said} (job {number})" if several else said for said, number in problems.items()))
        return asked

    def directory(self, keys: Sequence[str], identities: Sequence[str]) -> Path:
        """The sweep's.  keys: what it is named for.  identities: of what it does."""
        named = [str(one) for one in [self.master.hydra.runtime.choices.get("experiment")] if one]
        os.environ["LAB_SWEEP"] = sweep_name([*named, *keys], identities)
        return relative_to_cwd(Path(self.master.hydra.sweep.dir))

    def jobs(self, asked: Mapping[int, ComposedConfig], sweep: Path) -> list[Job]:
        there = runs_by_id(runs_folder(next(iter(asked.values())))) if is_in_outputs(self.master) else None
        identities = {number: self.session.identify(one.config) for number, one in asked.items()}
        return [
            Job(number, one, identities[number], job_directory(sweep, number, one, identities[number].id, there))
            for number, one in asked.items()
        ]

    def other_launcher(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Have another of Hydra's launchers do the jobs. What becomes of them, the runs' directories tell."""
        from hydra.core.plugins import Plugins

        OmegaConf.update(self.master, "hydra.sweep.dir", str(plan.directory.absolute()))
        for name in ("lab.run_dir", "lab.job_dir"):  # where the runs are is settled, and these cannot be sent away
            OmegaConf.clear_resolver(name)
        task = PlannedTask(plan, jobs)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(task.loader(self.context.config_loader), self.context.callbacks),
            task_function=task,
            config=self.master,
        )
        try:
            launcher.launch([launcher_overrides(job) for job in jobs], initial_job_idx=0)
        except Exception as error:  # one job's process died, and the launcher gives up; its other jobs may be done
            said = next(iter(str(error).splitlines()), "")
            said = f"lab: {type(launcher).__name__} gave up: {type(error).__name__}: {said}"
            print(f"{said}; the same command takes up what is left", file=sys.stderr)
            self.gave_up = True
            wait_for_stragglers(jobs)

    def launch(self, overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Another sweeper's batch: its jobs, done, with the monitored score of each for what the sweeper optimizes."""
        if self.session.sweep:
            raise ConfigError(f"lab {self.session.verb} goes by lab's own sweeper; leave hydra/sweeper= out")
        plan = self.planned(overrides, first)
        self.session.code = run_sweep(plan, self.workers(), verb=self.session.verb) or self.session.code
        returned = []
        for job in plan.jobs:
            value = job_results(job).get(str(job_monitor(job)[0]))
            # Hydra's own sweeper would end with the first failure, its later batches not begun; it wants no value
            basic = str(self.master.hydra.sweeper["_target_"]).endswith(".BasicSweeper")
            status = JobStatus.COMPLETED if value is not None or basic else JobStatus.FAILED
            given = value if value is not None else RuntimeError(f"{job.directory} is {job_status(job)['state']}")
            returned.append(JobReturn(overrides=job.asked.overrides, status=status, _return_value=given))
        return returned


def job_directory(
    sweep: Path, number: int, asked: ComposedConfig, identity: str, there: Mapping[str, Path] | None
) -> Path:
    """Where a job's run is.  there: the runs of outputs/; None for a sweep that keeps its runs inside."""
    return sweep / f"{number}-{identity}" if there is None else relative_to_cwd(run_directory(asked, identity, there))
