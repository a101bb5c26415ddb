"""lab ls: lists runs, read without torch or Hydra."""

import argparse
import json
from pathlib import Path

from lab.cli.arguments import parse_arguments
from lab.cli.output import align_columns, format_time
from lab.config.overrides import split_override
from lab.errors import ConfigError
from lab.ledger.listing import find_run_or_sweep, run_rows
from lab.metrics.names import is_overall
from lab.text import format_number, relative_to_cwd

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
    parser.add_argument("--json", action="store_true", help="as a JSON list, with all metrics")
    options = parse_arguments(parser, arguments)
    root = options.dir or options.outputs
    root = root if root.is_dir() else find_run_or_sweep(root, options.outputs) or root
    if not root.is_dir():
        raise ConfigError(
            f"no folder {root}, and no run or sweep of this name or id; lab train writes runs to outputs/, to "
            "$LAB_OUTPUTS or to paths.outputs="
        )
    print(json.dumps(run_rows(root), indent=2) if options.json else runs_table(root))
    return 0


def runs_table(root: Path) -> str:
    """The runs below `root` as text: id, state, model, data, the values in which they differ, main scores, seed, start
    and directory; for a damaged run its error in place of the directory."""
    rows = run_rows(root)
    if not rows:
        return f"no runs in {root}"
    names = [name for name in dict.fromkeys(name for row in rows for name in row["metrics"]) if is_overall(name)]
    names = [name for name in names if name.startswith("test/")][:MOST_SCORES] or ["train/loss"]
    values = [dict(map(split_override, row["overrides"])) for row in rows]
    keys = [key for key in dict.fromkeys(key for given in values for key in given) if key not in SHOWN_APART]
    keys = [key for key in keys if len({given.get(key) for given in values}) > 1]
    shown = keys if len(keys) <= MOST_KEYS else []
    experiments = {row["experiment"] for row in rows} - {None}
    apart = ["experiment"] if experiments - {"train"} else []
    header = ["id", "state", *apart, "model", "data", *shown, *(["differs by"] if keys and not shown else [])]
    lines = [[*header, *names, "seed", "started", "directory"]]
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
                format_time(row["started"]),
                row.get("error") or str(relative_to_cwd(Path(row["dir"]))),
            ]
        )
    return align_columns(lines)
