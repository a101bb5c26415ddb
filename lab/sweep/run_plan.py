"""Carries a plan out: tries its jobs, then has a pool or another launcher do them. Nothing is printed here."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config.overrides import override_key, swept_keys
from lab.config.settings import Policy
from lab.errors import ConfigError, DamagedRun, Refused
from lab.execution.outcome import Outcome, saved_outcome
from lab.identity.run_directory import short_override
from lab.identity.source_code import CodeWatch
from lab.ledger.saved_run import SavedRun
from lab.record.files import refuse_link, slugify
from lab.redact import redact_text
from lab.sweep.controller import Source, SweepController, View
from lab.sweep.plan import Job, Plan, link_run, read_plan, write_plan
from lab.sweep.pool import Pool
from lab.text import format_si
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.assembly.preflight_report import PreflightReport

Launcher = Callable[[Plan, Sequence[Job]], None]


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    outcomes: outcomes of the jobs that ended, by number.  changed: names of the modules whose source changed, so that
    the sweep was stopped.  reason: why the sweep was stopped; None where it was not.
    """

    outcomes: Mapping[int, Outcome]
    changed: Sequence[str] = ()
    reason: str | None = None


def preflight_jobs(plan: Plan, jobs: Sequence[Job], pool: Pool, show: Callable[[str], None]) -> "PreflightReport":
    """Try the jobs in a worker of the pool, and divide this machine's GPUs among the workers. Starts no job.

    show: as `Pool.check` takes it.
    Raises ConfigError with every problem of every job, and where the disk is too full for the checkpoints.
    """
    try:
        report = pool.check(jobs, show)
    except RuntimeError as error:
        raise ConfigError(str(error)) from error
    numbers_by_problem: dict[str, list[int]] = {}
    for number, problems in report.problems.items():
        for problem in problems:
            numbers_by_problem.setdefault(problem, []).append(number)
    if numbers_by_problem:
        several = len(plan.jobs) > 1
        error = ConfigError(
            *(
                f"{problem} ({format_job_numbers(numbers)})" if several else problem
                for problem, numbers in numbers_by_problem.items()
            )
        )
        error.trace = "\n".join(report.traces)
        raise error
    if report.disk > (free := free_disk(jobs)):
        raise ConfigError(
            f"checkpoints take about {format_si(report.disk)}B, {format_si(free)}B are free; paths.outputs= moves them"
        )
    pool.share_gpus(report.gpus)
    return report


def format_job_numbers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"jobs {', '.join(map(str, numbers[:5]))}{more}"


def free_disk(jobs: Sequence[Job]) -> int:
    """Free bytes on the disk that the jobs' runs will be written to, from the first job's directory."""
    folder = jobs[0].directory.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_same_sweep(plan: Plan) -> None:
    """Raises Refused where the plan's directory holds a sweep with runs that this plan lacks, or another search."""
    try:
        earlier = read_plan(plan.directory)
    except ValueError:  # there is no plan, or it cannot be read
        return
    lacking = {job.identity.id for job in earlier.jobs} - {job.identity.id for job in plan.jobs}
    if lacking or earlier.search != plan.search:
        raise Refused(f"{plan.directory} holds another sweep; give another hydra.sweep.dir=, or move it away")


def record_plan(plan: Plan) -> None:
    """Write the plan, and links to those of its runs that exist."""
    write_plan(plan)
    for job in plan.unique_jobs:
        if job.directory.exists():
            link_run(plan.directory, job)


def name_links(plan: Plan) -> Path | None:
    """Make a folder of links to the plan's runs that are named by their numbers and swept values, as TensorBoard then
    shows them: `<outputs>/tensorboard/<sweep>/07 lr=0.1 seed=2`. Gives the folder; None where it cannot be written, or
    the sweep keeps its runs in its own directory."""
    if not plan.jobs or plan.directory.parent.name != "sweeps":
        return None
    folder = plan.directory.parent.parent / "tensorboard" / plan.directory.name
    targets = {folder / name: os.path.relpath(directory, folder) for name, directory in link_names(plan).items()}
    try:
        refuse_link(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for link in folder.iterdir():
            if link.is_symlink() and os.readlink(link) != targets.get(link):
                link.unlink(missing_ok=True)
        for link, target in targets.items():
            with suppress(FileExistsError):  # there already, or made by another process of the same sweep
                link.symlink_to(target, target_is_directory=True)
    except (OSError, DamagedRun):
        return None
    return folder


def link_names(plan: Plan) -> dict[str, Path]:
    """The directories of the plan's runs that exist, by number and swept values. A key is named by its last part, in
    full where two swept keys end in the same; secrets are redacted."""
    keys = swept_keys([job.composed.overrides for job in plan.jobs])
    ends = Counter(key.rpartition(".")[2] for key in keys)
    width = len(str(max(job.number for job in plan.jobs)))
    names = {}
    for job in plan.unique_jobs:
        parts = [f"{job.number:0{width}d}"]
        for override in job.composed.overrides:
            key = override_key(override)
            if key in keys:
                shown = redact_text(override)
                parts.append(slugify(short_override(shown) if ends[key.rpartition(".")[2]] == 1 else shown))
        if job.directory.is_dir():
            names[" ".join(parts)[:200]] = job.directory
    return names


def run_in_pool(
    sweep: Path, sources: Mapping[str, str], source: Source, pool: Pool, view: View, policy: Policy, stop: StopSignal
) -> SweepResult:
    """Have the pool do the jobs of a source.  sources: SHA-256 of each module as it was planned, by name."""
    controller = SweepController(sweep, source, pool, policy, view, CodeWatch(sources), stop)
    controller.run()
    return SweepResult(controller.outcomes, controller.changed, controller.reason)


def run_with_launcher(plan: Plan, jobs: Sequence[Job], launch: Launcher) -> SweepResult:
    """Have another launcher do the jobs, and read their outcomes from their directories."""
    launch(plan, jobs)
    for job in jobs:
        link_run(plan.directory, job)
    return SweepResult({job.number: saved_outcome(SavedRun(job.directory)) for job in jobs})
