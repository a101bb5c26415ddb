"""lab show: prints one run's state, scores and config, read without torch or Hydra."""

import argparse
import json
from pathlib import Path
from typing import Any

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns, format_time
from lab.ledger.diff import flatten_config
from lab.ledger.listing import run_row
from lab.text import format_number


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab show", description="Everything about one run.")
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    run = read_run(options.run, options.outputs)
    facts: dict[str, Any] = {**run_row(run), "config": run.config, "status": run.status}
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    started, ended = facts["started"], facts["ended"]
    lines = [[name, str(facts[name])] for name in ("id", "dir", "state", "experiment", "seed")]
    lines += [["overrides", " ".join(facts["overrides"])], ["started", format_time(started)]]
    if started and ended:
        lines.append(["took", f"{ended - started:.1f} s"])
    if error := facts.get("error") or run.status.get("error"):
        lines.append(["error", error])
    if changed := run.changed_files(checkpoints=False):
        lines.append(["changed since it was sealed", ", ".join(changed)])
    lines += [[name, format_number(value)] for name, value in facts["metrics"].items()]
    for part, values in (("config", run.config), ("parts", run.manifest.get("parts", {}))):  # of a script's run: parts
        lines += [[f"{part}.{name}", str(value)] for name, value in flatten_config(values).items()]
    print(align_columns(lines))
    return 0
