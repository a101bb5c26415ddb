"""lab resume, lab retry: what was planned once is carried on, whatever the configs have become since."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lab.cli.output import print_error, print_missing, relative_to_cwd
from lab.cli.run_sweep import run_sweep
from lab.cli.show import find
from lab.cli.train import one_run
from lab.config.composed import ComposedConfig
from lab.errors import EXIT_INTERRUPTED, ConfigError, Refused, RunInUse
from lab.hydra_app.app import run_app as train
from lab.identity.identity import Identifier, Identity
from lab.record.files import read_json
from lab.runs.diff import read_config
from lab.sweep.plan import PLAN_FILE, Job, read_plan


def resume(arguments: list[str]) -> int:
    return continue_directory(arguments, "resume", "Go on with a run or a sweep that was stopped.")


def retry(arguments: list[str]) -> int:
    return continue_directory(arguments, "retry", "Take the failed runs of a sweep, or a failed run, again.")


def continue_directory(arguments: list[str], verb: str, said: str) -> int:
    parser = argparse.ArgumentParser(f"lab {verb}", description=said)
    parser.add_argument("dir", type=Path, help="a sweep's directory, a run's, or the 8 characters of a run's id")
    parser.add_argument("--workers", type=int, help="how many of a sweep's runs at once")
    parser.add_argument("--anyway", action="store_true", help="also where the code or the data changed since")
    given = parser.parse_args(arguments)
    try:
        if (given.dir / PLAN_FILE).exists():
            plan = read_plan(given.dir)
            check_inside(given.dir, plan.jobs)
            check_unchanged(plan.jobs, given.anyway)
            if plan.search is not None and verb == "resume":  # which asks for more jobs than it has so far
                workers = [f"hydra.launcher.workers={given.workers}"] if given.workers else []
                here = relative_to_cwd(given.dir.absolute())
                return train(["-m", *plan.search, f"hydra.sweep.dir='{here}'", *workers])
            return run_sweep(plan, {"workers": given.workers}, retry=verb == "retry")
        run = find(given.dir)
        if run is None:
            return print_missing(
                given.dir, "no run and no sweep", "lab ls lists the runs, outputs/sweeps/ has the sweeps"
            )
        job = read_job(run)
        check_unchanged([job], given.anyway)
        return one_run(job.asked, job.identity, run)
    except (ConfigError, Refused, RunInUse) as error:
        return print_error(error, with_traceback=False)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        return print_error(ConfigError(str(error)), with_traceback=False)


def check_inside(sweep: Path, jobs: Sequence[Job]) -> None:
    """Raises Refused for a plan, perhaps someone else's, that would have runs written elsewhere."""
    allowed = [sweep.resolve(), sweep.resolve().parent.parent / "runs"]
    for job in jobs:
        if not any(job.directory.resolve().is_relative_to(folder) for folder in allowed):
            raise Refused(
                f"{sweep} plans a run in {job.directory}, outside {allowed[1]}; give the sweep's command again"
            )


def check_unchanged(jobs: Sequence[Job], anyway: bool) -> None:
    """Raises Refused where the same config is another run by now, ConfigError where it is not all there."""
    if any("<redacted>" in json.dumps(job.asked.config) for job in jobs):
        raise ConfigError("a secret of the config is not kept on disk; give the command again, with it")
    identify = Identifier()
    for job in jobs:
        if not anyway and (now := identify(job.asked.config)) != job.identity:
            what = "code" if now.code != job.identity.code else "data" if now.files != job.identity.files else "config"
            raise Refused(
                f"the {what} changed since {job.directory} was planned, it would be another run ({now.id}); give the "
                "command again for that one, or --anyway to go on with this one"
            )


def read_job(run: Path) -> Job:
    """What a run's directory says that it was asked for with. Raises ConfigError where it does not say."""
    manifest = read_json(run / "manifest.json")
    if manifest is None:
        raise ConfigError(f"{run} has no manifest.json; give the command again")

    def hydra(name: str) -> Any:
        return yaml.safe_load((run / ".hydra" / f"{name}.yaml").read_text())

    identity = Identity(manifest["config"], manifest["code"], manifest["files"])
    source, node = hydra("config"), hydra("hydra")["hydra"]
    asked = ComposedConfig(read_config(run), source, node, manifest["overrides"], manifest["choices"])
    return Job(0, asked, identity, run)
