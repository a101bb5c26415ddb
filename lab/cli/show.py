"""lab show: prints one run's state, scores and config, read without torch or Hydra."""

import argparse
import json
from pathlib import Path
from typing import Any

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns, format_time
from lab.errors import ConfigError
from lab.ledger.diff import flatten_config
from lab.ledger.listing import find_run_or_sweep, is_sweep, run_row
from lab.ledger.saved_run import SavedRun
from lab.text import format_number


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab show", description="Everything about one run, or the jobs of a sweep.")
    parser.add_argument("run", type=Path, help=f"{RUN_HELP}; or a sweep's")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    directory = find_run_or_sweep(options.run, options.outputs) or options.run
    if is_sweep(directory):
        show_sweep(directory, options.json)
        return 0
    run = read_run(directory, options.outputs)
    facts: dict[str, Any] = {**run_row(run), "config": run.config, "status": run.status}
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    lines = [[name, str(facts[name])] for name in ("id", "dir", "state", "experiment", "seed")]
    lines += [["overrides", " ".join(facts["overrides"])], ["started", format_time(facts["started"])]]
    if seconds := run.seconds_so_far:
        lines.append(["took", f"{seconds:.1f} s"])
    lines += [["tags", " ".join(facts["tags"])]] if facts["tags"] else []
    lines += [["note", facts["note"]]] if facts["note"] else []
    if error := facts.get("error") or run.status.get("error"):
        lines.append(["error", error])
    if changed := run.changed_files(checkpoints=False):
        lines.append(["changed since it was sealed", ", ".join(changed)])
    lines += [[name, format_number(value)] for name, value in facts["metrics"].items()]
    for part, values in (("config", run.config), ("parts", run.manifest.get("parts", {}))):  # of a script's run: parts
        lines += [[f"{part}.{name}", str(value)] for name, value in flatten_config(values).items()]
    print(align_columns(lines))
    return 0


def show_sweep(directory: Path, as_json: bool) -> None:
    """Print the jobs of a sweep with their states, and its table."""
    from lab.cli.run_sweep import print_jobs
    from lab.config.overrides import swept_keys
    from lab.sweep.plan import read_plan
    from lab.sweep.table import job_row, make_table

    try:
        plan = read_plan(directory)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        print(json.dumps([run_row(SavedRun(job.directory)) for job in plan.unique_jobs], indent=2))
        return
    print_jobs(plan)
    rows = [job_row(job) for job in plan.unique_jobs]
    table = make_table(rows, swept_keys([job.composed.overrides for job in plan.jobs]))
    print(align_columns(table.main_lines()))
