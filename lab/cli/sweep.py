"""A sweep, from Hydra's sweeper to the exit code: planned, checked, done by a pool or by another launcher."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lab.cli.carry import carry_out
from lab.cli.train import Session, relative
from lab.config.asked import Asked, directories, run_directory, runs_folder
from lab.config.axes import expand, swept_keys
from lab.config.compose import Composer, in_outputs
from lab.config.errors import ConfigError
from lab.study.job import Outcome, policy
from lab.study.plan import Job, Plan, results, state, sweep_name, with_twins
from lab.study.pulse import Pulse

OWN = "hydra_plugins.lab."


class Sweeping:
    """What lab's sweeper and launcher do, for the session whose task Hydra was given."""

    def __init__(self, context: HydraContext, task: TaskFunction, master: DictConfig):
        self.session: Session = getattr(task, "__self__", None)  # type: ignore[assignment]
        if not isinstance(self.session, Session):
            raise ConfigError("lab's sweeper and launcher do lab's runs alone; give hydra/sweeper=basic")
        self.context, self.task, self.master = context, task, master

    def sweep(self, arguments: Sequence[str]) -> None:
        spec = OmegaConf.to_container(self.master.sweep, resolve=True) if self.master.get("sweep") else None
        overrides = expand(arguments, self.context.config_loader, spec)
        plan = self.planned(overrides)
        own = str(self.master.hydra.launcher["_target_"]).startswith(OWN)
        by = None if own else self.other_launcher
        self.session.code = carry_out(plan, self.workers() if own else {}, verb=self.session.verb, by=by)

    def workers(self) -> dict[str, Any]:
        return cast(dict[str, Any], OmegaConf.to_container(self.master.hydra.launcher, resolve=True))

    def planned(self, overrides: Sequence[Sequence[str]], first: int = 0) -> Plan:
        """The jobs of these override lists. Raises ConfigError with every problem of every job."""
        compose = Composer(self.context.config_loader, self.master)
        asked, problems = [], {}
        for number, one in enumerate(overrides, start=first):
            try:
                asked.append(compose(number, one))
            except ConfigError as error:
                for problem in error.problems:
                    problems.setdefault(problem, number)
        if problems:
            raise ConfigError(*problems)
        identities = [self.session.identify(one.config) for one in asked]
        keys = swept_keys([one.overrides for one in asked])
        named = [str(one) for one in [asked[0].choices.get("experiment")] if one]
        os.environ["LAB_SWEEP"] = sweep_name([*named, *keys], [identity.id for identity in identities])
        sweep = relative(Path(self.master.hydra.sweep.dir))
        there = directories(runs_folder(asked[0])) if in_outputs(self.master) else None
        jobs = [
            Job(number, one, identity, place(sweep, number, one, identity.id, there))
            for number, (one, identity) in enumerate(zip(asked, identities, strict=True), start=first)
        ]
        return Plan(sweep, with_twins(jobs), self.session.identify.hashes())

    def other_launcher(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Have another of Hydra's launchers do the jobs. What becomes of them, the runs' directories tell."""
        from hydra.core.plugins import Plugins

        OmegaConf.update(self.master, "hydra.sweep.dir", str(plan.directory.absolute()))
        task = Planned({job.directory.name: job for job in jobs})
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=task, config=self.master
        )
        overrides = [[*job.asked.overrides, f"hydra.sweep.subdir='{job.directory.absolute()}'"] for job in jobs]
        launcher.launch(overrides, initial_job_idx=0)

    def launch(self, overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Another sweeper's batch: its jobs, done, with the monitored score of each for what the sweeper optimizes."""
        plan = self.planned(overrides, first)
        self.session.code = carry_out(plan, self.workers()) or self.session.code
        returned = []
        for job in plan.jobs:
            value = results(job).get(str(job.asked.config["monitor"]))
            status = JobStatus.COMPLETED if value is not None else JobStatus.FAILED
            given = value if value is not None else RuntimeError(f"{job.directory} is {state(job)['state']}")
            returned.append(JobReturn(overrides=job.asked.overrides, status=status, _return_value=given))
        return returned


def place(sweep: Path, number: int, asked: Asked, identity: str, there: Mapping[str, Path] | None) -> Path:
    """Where a job's run is.  there: the runs of outputs/; None for a sweep that keeps its runs inside."""
    return sweep / f"{number}-{identity}" if there is None else relative(run_directory(asked, identity, there))


class Planned:
    """A task for another launcher: the planned job, whatever the config has become since.  jobs: by directory name."""

    def __init__(self, jobs: dict[str, Job]):
        self.jobs = jobs

    def __call__(self, config: DictConfig) -> Outcome:
        from hydra.core.hydra_config import HydraConfig

        from lab.study.job import Terms, do

        job = self.jobs[Path(HydraConfig.get().runtime.output_dir).name]
        pulse = Pulse(policy(job.asked.config).step_timeout)
        with pulse.signals():
            return do(job.asked, job.identity, job.directory, Terms(pulse))
