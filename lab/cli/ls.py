"""lab ls: lists runs, read without torch or Hydra."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from lab.cli.arguments import parse_arguments
from lab.cli.output import align_columns, format_time
from lab.config.overrides import split_override
from lab.errors import ConfigError
from lab.ledger.listing import find_run_or_sweep, run_rows
from lab.ledger.query import known_names, parse_condition, run_value, sort_key
from lab.metrics.names import is_overall
from lab.text import format_number, relative_to_cwd, suggest

SHOWN_APART = ("model", "data", "seed", "experiment", "again")  # overrides with a column of their own, or none
MOST_KEYS = 6  # keys with a column each; more are one column
MOST_SCORES = 3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab ls", description="List runs, the one started last at the end.")
    parser.add_argument(
        "dir",
        nargs="?",
        type=Path,
        help="a folder of runs, or a sweep's directory, name or id; paths.outputs if left out",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only runs that meet it, such as state=failed, 'test/accuracy>0.9', optimizer.lr=0.01 or tag=paper; "
        "several may be given",
    )
    parser.add_argument("--sort", metavar="NAME", help="by this value, ascending, or descending with a - before it")
    parser.add_argument("--columns", metavar="NAMES", help="these values, with commas between them, and the directory")
    parser.add_argument("--json", action="store_true", help="as a JSON list, with all metrics")
    options = parse_arguments(parser, join_sort(arguments))
    root = options.dir or options.outputs
    root = root if root.is_dir() else find_run_or_sweep(root, options.outputs) or root
    if not root.is_dir():
        raise ConfigError(
            f"no folder {root}, and no run or sweep of this name or id; lab train writes runs to outputs/, to "
            "$LAB_OUTPUTS or to paths.outputs="
        )
    rows = choose_rows(run_rows(root), options.where, options.sort)
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print(f"no runs in {root}" + (" that meet " + " and ".join(options.where) if options.where else ""))
    else:
        print(columns_table(rows, options.columns.split(",")) if options.columns else runs_table(rows))
    return 0


def join_sort(arguments: list[str]) -> list[str]:
    """The arguments with `--sort -NAME` as one, since a value with a dash looks like an option."""
    joined = list(arguments)
    for place, argument in enumerate(arguments[:-1]):
        if argument == "--sort" and arguments[place + 1].startswith("-"):
            joined[place : place + 2] = [f"--sort={arguments[place + 1]}"]
    return joined


def choose_rows(rows: list[dict[str, Any]], where: list[str], sort: str | None) -> list[dict[str, Any]]:
    """The rows that meet all conditions, in the order asked for. Raises ConfigError for a name that no run has."""
    conditions = [parse_condition(text) for text in where]
    names = [condition.name for condition in conditions] + ([sort.removeprefix("-")] if sort else [])
    check_names(rows, names)
    chosen = [row for row in rows if all(condition.holds(row) for condition in conditions)]
    if sort:
        chosen.sort(key=lambda row: sort_key(row, sort.removeprefix("-")), reverse=sort.startswith("-"))
    return chosen


def check_names(rows: list[dict[str, Any]], names: list[str]) -> None:
    known = known_names(rows) if names else []
    for name in names:
        if rows and name not in known and all(run_value(row, name) is None for row in rows):
            raise ConfigError(f"no run has {name!r}; {suggest(name, known)}")


def columns_table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """The chosen values of each run, and its directory."""
    check_names(rows, names)
    lines = [[*names, "directory"]]
    for row in rows:
        lines.append([*(column_text(name, run_value(row, name)) for name in names), shown_directory(row)])
    return align_columns(lines)


def column_text(name: str, value: Any) -> str:
    if name in ("started", "ended"):
        return format_time(value)
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return format_number(value) if isinstance(value, float) else "-" if value in (None, "") else str(value)


def shown_directory(row: dict[str, Any]) -> str:
    directory: str = row["dir"]
    return row.get("error") or (str(relative_to_cwd(Path(directory))) if os.path.isabs(directory) else directory)


def runs_table(rows: list[dict[str, Any]]) -> str:
    """Runs as text: id, state, model, data, the values in which they differ, main scores, seed, tags, start and
    directory; for a damaged run its error in place of the directory."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row["metrics"]) if is_overall(name)]
    names = [name for name in names if name.startswith("test/")][:MOST_SCORES] or ["train/loss"]
    values = [dict(map(split_override, row["overrides"])) for row in rows]
    keys = [key for key in dict.fromkeys(key for given in values for key in given) if key not in SHOWN_APART]
    keys = [key for key in keys if len({given.get(key) for given in values}) > 1]
    shown = keys if len(keys) <= MOST_KEYS else []
    experiments = {row["experiment"] for row in rows} - {None}
    apart = ["experiment"] if experiments - {"train"} else []
    header = ["id", "state", *apart, "model", "data", *shown, *(["differs by"] if keys and not shown else [])]
    tagged = ["tags"] if any(row["tags"] for row in rows) else []
    lines = [[*header, *names, "seed", *tagged, "started", "directory"]]
    for row, given in zip(rows, values, strict=True):
        differing = [f"{key}={given[key]}" for key in keys if key in given]
        lines.append(
            [
                row["id"],
                row["state"],
                *(str(row[name] or "-") for name in apart),
                *(str(row["choices"].get(group) or "-") for group in ("model", "data")),
                *(given.get(key, "-") for key in shown),
                *([" ".join(differing)] if keys and not shown else []),
                *(format_number(row["metrics"].get(name)) for name in names),
                str(row["seed"]),
                *(" ".join(row["tags"]) or "-" for _ in tagged),
                format_time(row["started"]),
                shown_directory(row),
            ]
        )
    return align_columns(lines)
