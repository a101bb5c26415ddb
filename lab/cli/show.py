"""lab ls, lab show, lab diff: records, read without torch or Hydra."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from lab.cli.output import align_columns, format_cell, format_number, format_time, print_missing
from lab.metrics.names import is_overall
from lab.record.status import changed_files, read_status
from lab.runs.diff import diff_runs, flatten_config, read_config
from lab.runs.ledger import RUN_MARKS, find_runs, run_row, run_rows

OUTPUTS = os.environ.get("LAB_OUTPUTS", "outputs")


def ls(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab ls", description="List runs, the one started last at the end.")
    parser.add_argument("dir", nargs="?", default=OUTPUTS, type=Path, help=f"a folder of runs or a sweep ({OUTPUTS})")
    parser.add_argument("--json", action="store_true", help="as a JSON list, whole")
    given = parser.parse_args(arguments)
    if not given.dir.is_dir():
        return print_missing(given.dir, "no folder", "lab train makes runs in outputs/, or in $LAB_OUTPUTS")
    if given.json:
        print(json.dumps(run_rows(given.dir), indent=2))
    else:
        print(runs_table(given.dir))
    return 0


def runs_table(root: Path) -> str:
    """The runs below `root` as text: state, main metrics, seed, directory."""
    found = run_rows(root)
    if not found:
        return f"no runs in {root}"
    names = [n for n in dict.fromkeys(n for run in found for n in run["metrics"]) if is_overall(n)]
    names = [name for name in names if name.startswith("test/")] or ["train/loss"]
    lines = [["id", "state", *names, "seed", "started", "overrides"]]
    for run in found:
        scores = [format_number(run["metrics"].get(name)) for name in names]
        said = " ".join(run["overrides"])
        if run["experiment"] not in (None, "train") and "experiment=" not in said:
            said = f"experiment={run['experiment']} {said}"
        lines.append([run["id"], run["state"], *scores, str(run["seed"]), format_time(run["started"]), said])
    return align_columns(lines)


def show(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab show", description="Everything about one run.")
    parser.add_argument("run", type=Path, help="a run's directory, or the 8 characters of its id")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(arguments)
    directory = find(given.run)
    if directory is None:
        hint = f"it is a folder of runs: lab ls {given.run}" if given.run.is_dir() else "lab ls lists them"
        return print_missing(given.run, "no run", hint)
    found: dict[str, Any] = {**run_row(directory), "config": read_config(directory), "status": read_status(directory)}
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    started, ended = found["started"], found["ended"]
    lines = [[name, str(found[name])] for name in ("id", "dir", "state", "experiment", "seed")]
    lines += [["overrides", " ".join(found["overrides"])], ["started", format_time(started)]]
    if started and ended:
        lines.append(["took", f"{ended - started:.1f} s"])
    if error := found["status"].get("error"):
        lines.append(["error", error])
    if changed := changed_files(directory, checkpoints=False):
        lines.append(["changed since it was sealed", ", ".join(changed)])
    lines += [[name, format_number(value)] for name, value in found["metrics"].items()]
    lines += [[f"config.{name}", str(value)] for name, value in flatten_config(found["config"]).items()]
    print(align_columns(lines))
    return 0


def diff(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab diff", description="What differs between two runs.")
    parser.add_argument("a", type=Path, help="a run's directory, or the 8 characters of its id")
    parser.add_argument("b", type=Path)
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(arguments)
    a, b = find(given.a), find(given.b)
    if a is None or b is None:
        return print_missing(given.a if a is None else given.b, "no run", "lab ls lists them")
    found = diff_runs(a, b)
    if given.json:
        print(json.dumps({name: [left, right] for name, left, right in found}, indent=2))
    elif not found:
        print("no difference")
    else:
        print(
            align_columns(
                [["", str(a), str(b)], *([name, format_cell(left), format_cell(right)] for name, left, right in found)]
            )
        )
    return 0


def find(given: Path) -> Path | None:
    """The run directory that is meant: a path, or an id or its beginning among the runs of outputs/."""
    if any((given / mark).exists() for mark in RUN_MARKS):
        return given
    text = str(given)
    if "/" in text or len(text) < 4:
        return None
    return next((run for run in find_runs(Path(OUTPUTS)) if run.name[-8:].startswith(text)), None)
