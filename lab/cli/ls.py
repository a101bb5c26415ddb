"""lab ls: lists runs, read without torch or Hydra."""

import argparse
import json
from pathlib import Path

from lab.cli.arguments import parse_arguments
from lab.cli.output import align_columns, format_time
from lab.errors import ConfigError
from lab.ledger.listing import run_rows
from lab.metrics.names import is_overall
from lab.text import format_number


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab ls", description="List runs, the one started last at the end.")
    parser.add_argument("dir", nargs="?", type=Path, help="a folder of runs or a sweep; paths.outputs if left out")
    parser.add_argument("--json", action="store_true", help="as a JSON list, with all metrics")
    options = parse_arguments(parser, arguments)
    root = options.dir or options.outputs
    if not root.is_dir():
        raise ConfigError(f"no folder {root}; lab train writes runs to outputs/, to $LAB_OUTPUTS or to paths.outputs=")
    print(json.dumps(run_rows(root), indent=2) if options.json else runs_table(root))
    return 0


def runs_table(root: Path) -> str:
    """The runs below `root` as text: id, state, main metrics, seed, start and overrides; for a damaged run its error in
    place of the overrides."""
    rows = run_rows(root)
    if not rows:
        return f"no runs in {root}"
    names = [name for name in dict.fromkeys(name for row in rows for name in row["metrics"]) if is_overall(name)]
    names = [name for name in names if name.startswith("test/")] or ["train/loss"]
    lines = [["id", "state", *names, "seed", "started", "overrides"]]
    for row in rows:
        scores = [format_number(row["metrics"].get(name)) for name in names]
        text = row.get("error") or " ".join(row["overrides"])
        if row["experiment"] not in (None, "train") and "experiment=" not in text:
            text = f"experiment={row['experiment']} {text}"
        lines.append([row["id"], row["state"], *scores, str(row["seed"]), format_time(row["started"]), text])
    return align_columns(lines)
