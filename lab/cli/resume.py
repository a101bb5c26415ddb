"""lab resume, lab retry: continue runs and sweeps as they were planned, even if the config files have changed since."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.cli.arguments import parse_arguments, read_run
from lab.cli.run_sweep import train_sweep
from lab.cli.train import main as train
from lab.cli.train import train_single_run
from lab.config.composed import ComposedConfig
from lab.config.hydra_trust import check_saved_job
from lab.config.trust import check_code_outside
from lab.errors import EXIT_INTERRUPTED, ConfigError, Refused
from lab.identity.identity import Identifier, Identity
from lab.ledger.listing import find_run_or_sweep, is_sweep
from lab.ledger.saved_run import SavedRun
from lab.sweep.plan import Job, read_plan
from lab.text import relative_to_cwd


def resume(arguments: list[str]) -> int:
    options = parse_directory("resume", "Continue a run or a sweep that was stopped.", arguments)
    return continue_directory(options, retry=False)


def retry(arguments: list[str]) -> int:
    options = parse_directory("retry", "Do the failed runs of a sweep, or a failed run, again.", arguments)
    return continue_directory(options, retry=True)


def parse_directory(verb: str, description: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"lab {verb}", description=description)
    parser.add_argument(
        "dir", type=Path, help="a sweep's or a run's directory, its name, or the first characters of its id, 4 at least"
    )
    parser.add_argument("--workers", type=int, help="how many of a sweep's runs at once")
    parser.add_argument("--anyway", action="store_true", help="also where the code or the data changed since")
    return parse_arguments(parser, arguments)


def continue_directory(options: argparse.Namespace, retry: bool) -> int:
    """Continue the run or the sweep in `options.dir`. Gives the exit code.  retry: whether to do failed jobs again."""
    try:
        options.dir = follow_own_link(options.dir, options.outputs)
        options.dir = find_run_or_sweep(options.dir, options.outputs) or options.dir
        if is_sweep(options.dir):
            return continue_sweep(options, retry)
        job = read_job(read_run(options.dir, options.outputs))
        check_own_code([job], job.directory)
        check_unchanged([job], options.anyway)
        return train_single_run(job.composed, job.identity, job.directory)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def follow_own_link(directory: Path, outputs: Path) -> Path:
    """The directory that a link in the folder of runs leads to, such as a sweep's link to its run. Any other path is
    unchanged, and nothing is written through a link then."""
    real = directory.resolve()
    return relative_to_cwd(real) if directory.is_symlink() and real.is_relative_to(outputs.resolve()) else directory


def continue_sweep(options: argparse.Namespace, retry: bool) -> int:
    plan = read_plan(options.dir)
    check_inside(options.dir, plan.jobs)
    check_own_code(plan.jobs, options.dir)
    check_unchanged(plan.jobs, options.anyway)
    if plan.search is not None and not retry:  # the plan holds only the jobs that the search has asked for so far
        workers = [f"hydra.launcher.workers={options.workers}"] if options.workers else []
        directory = relative_to_cwd(options.dir.absolute())
        return train(["-m", *plan.search, f"hydra.sweep.dir='{directory}'", *workers])
    return train_sweep(plan, {"workers": options.workers}, retry=retry)


def check_inside(sweep: Path, jobs: Sequence[Job]) -> None:
    """Raises Refused for a plan with runs outside of the sweep and of the runs folder beside it: the plan may come from
    someone else."""
    allowed = [sweep.resolve(), sweep.resolve().parent.parent / "runs"]
    for job in jobs:
        if not any(job.directory.resolve().is_relative_to(folder) for folder in allowed):
            raise Refused(
                f"{sweep} plans a run in {job.directory}, outside {allowed[1]}; give the sweep's command again"
            )


def check_own_code(jobs: Sequence[Job], directory: Path) -> None:
    """Raises ConfigError where jobs name code or variables that came with their directory, which may be someone
    else's."""
    for job in jobs:
        check_code_outside(job.composed.resolved, directory)
        check_saved_job(job.composed.hydra)


def check_unchanged(jobs: Sequence[Job], anyway: bool) -> None:
    """Raises Refused where the code or the data changed, so that the same config would now be another run; ConfigError
    where the config had a secret, which is not kept on disk.

    anyway: continue although the code or the data changed.
    """
    if any("<redacted>" in json.dumps(job.composed.resolved) for job in jobs):
        raise ConfigError("a secret of the config is not kept on disk; give the command again, with it")
    identify = Identifier()
    for job in jobs if not anyway else ():
        now, before = identify(job.composed.resolved), job.identity
        if (now.config, now.code) != (before.config, before.code):
            part = "code" if now.code != before.code else "data" if now.files != before.files else "config"
            raise Refused(
                f"the {part} changed since {job.directory} was planned, it would be another run ({now.id}); give the "
                "command again for that one, or --anyway to continue this one"
            )


def read_job(run: SavedRun) -> Job:
    """The job of a run directory, from its config and manifest. Raises ConfigError where it lacks them."""
    manifest = run.manifest
    if not manifest:
        raise ConfigError(f"{run.directory} has no manifest.json; give the command again")
    if not run.config:
        raise ConfigError(f"{run.directory} was not started by lab train; run its script again to continue it")
    composed = ComposedConfig(run.config, run.unresolved_config, run.hydra, manifest["overrides"], manifest["choices"])
    return Job(0, composed, Identity.from_manifest(manifest), run.directory)
