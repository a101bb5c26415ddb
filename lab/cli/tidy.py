"""lab rm, lab gc: remove runs, and the checkpoints of finished runs that nobody needs."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.cli.arguments import command_parser, parse_arguments, read_all_runs
from lab.cli.ls import choose_rows
from lab.config.studies import find_study_files, study_keys
from lab.errors import ConfigError, Refused
from lab.ledger.listing import find_run_or_sweep, is_sweep, run_rows
from lab.ledger.saved_run import SavedRun
from lab.ledger.tidying import (
    Removal,
    every_run,
    folder_size,
    links_to,
    over_budget,
    spare_checkpoints,
    why_protected,
)
from lab.record.files import lock_directory
from lab.text import relative_to_cwd
from lab.user_cache import cache_folder

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
KEEPABLE = ("best", "last", "claimed")

RM_EPILOG = """  lab rm a1b2 c3d4
  lab rm --where state=failed --dry-run
  lab rm SWEEP                            a sweep, and its runs that no other sweep has
"""
GC_EPILOG = """Records stay: configs, metrics, scores. Of runs that are done, checkpoints go that --keep does not name:

  best      the weights that were scored at the end
  last      all state, to go on from with more steps
  claimed   all of runs that a paper's claims in experiments/ refer to

  lab gc --dry-run
  lab gc --keep best,claimed --budget 20G
"""


def rm(arguments: list[str]) -> int:
    parser = command_parser("rm", "Remove runs, with the links to them. Asks before it does.", RM_EPILOG)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run's or a sweep's directory, name or id")
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="runs that meet it, as lab ls"
    )
    add_switches(parser)
    options = parse_arguments(parser, arguments)
    if bool(options.runs) == bool(options.where):
        raise ConfigError("give runs to remove, or --where CONDITION")
    found, sweeps = name_runs(options.runs, options.outputs)
    if options.where:
        found = [SavedRun(Path(row["dir"])) for row in choose_rows(run_rows(options.outputs), options.where, None)]
    runs = list({run.directory.resolve(): run for run in found}.values())
    claimed = claimed_studies()
    for run in runs:
        if reason := why_protected(run, claimed):
            raise Refused(f"{relative_to_cwd(run.directory)}: {reason}; nothing was removed")
    directories = [run.directory.resolve() for run in runs]
    removals = [Removal(path, folder_size(path)) for path in (*directories, *sweeps)]
    if not confirm(removals, options):
        return 0
    for link in links_to(directories, options.outputs):
        link.unlink()
    for path in (*directories, *sweeps):
        with lock_directory(path):
            shutil.rmtree(path)
    return 0


def gc(arguments: list[str]) -> int:
    parser = command_parser("gc", "Free disk: remove checkpoints of finished runs, and cached pixels.", GC_EPILOG)
    parser.add_argument("--keep", default="best,last,claimed", metavar="NAMES", help="default: best,last,claimed")
    parser.add_argument("--budget", metavar="SIZE", help="such as 20G: then also those of the runs that ended first")
    parser.add_argument("--cache", action="store_true", help="empty the cache of decoded images too")
    add_switches(parser)
    options = parse_arguments(parser, arguments)
    keep = {name for name in options.keep.split(",") if name}
    if unknown := keep - set(KEEPABLE):
        raise ConfigError(f"--keep {sorted(unknown)[0]} is none of {', '.join(KEEPABLE)}")
    claimed = claimed_studies() if "claimed" in keep else set()
    runs = [run for run in every_run(options.outputs) if not why_protected(run, claimed)]
    removals = [removal for run in runs for removal in spare_checkpoints(run, keep - {"claimed"})]
    if options.budget:
        removals += over_budget(runs, removals, parse_size(options.budget), folder_size(options.outputs))
    cache = cache_folder()
    if options.cache:
        removals += [Removal(path, path.stat().st_size) for path in sorted(cache.glob("*.safetensors"))]
    elif cache.is_dir():
        print(f"{format_size(folder_size(cache))} of decoded images in {cache}; --cache removes them")
    if confirm(removals, options):
        for removal in removals:
            removal.path.unlink(missing_ok=True)
    return 0


def add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def name_runs(given: Sequence[Path], outputs: Path) -> tuple[list[SavedRun], list[Path]]:
    """The runs of these names, and the folders of sweeps among them with their links for TensorBoard. Of a sweep, the
    runs count that no other sweep has."""
    runs: list[SavedRun] = []
    sweeps: list[Path] = []
    for name in given:
        found = read_all_runs(name, outputs)
        directory = find_run_or_sweep(name, outputs)
        if directory is not None and is_sweep(directory):
            sweeps += [path for path in (directory, outputs / "tensorboard" / directory.name) if path.is_dir()]
            own = {path.resolve() for path in sweeps}
            links = links_to([run.directory for run in found], outputs)
            shared = {link.resolve() for link in links if link.parent.resolve() not in own}
            found = [run for run in found if run.directory.resolve() not in shared]
        runs += found
    return runs, sweeps


def claimed_studies() -> set[str]:
    """The studies of experiments/ that have claims of a paper."""
    return {name.partition("/")[0] for name, path in find_study_files().items() if "claims" in study_keys(path)}


def confirm(removals: Sequence[Removal], options: argparse.Namespace) -> bool:
    """Say what goes, and ask. Raises ConfigError where there is nobody to ask and no --yes."""
    if not removals:
        print("nothing to remove")
        return False
    for removal in removals:
        print(f"{format_size(removal.size):>8}  {relative_to_cwd(removal.path)}")
    total = f"{len(removals)} {'item' if len(removals) == 1 else 'items'}, {format_size(sum(r.size for r in removals))}"
    if options.dry_run:
        print(f"would remove {total}")
        return False
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"this would remove {total}; give --yes")
        if input(f"remove {total}? [y/N] ").strip().lower() not in ("y", "yes"):
            return False
    print(f"removed {total}")
    return True


def parse_size(text: str) -> int:
    """Bytes of a size such as 20G or 500M."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in UNITS else (text, "")
    try:
        return int(float(number) * UNITS.get(unit, 1))
    except ValueError as error:
        raise ConfigError(f"--budget {text} is no size, such as 20G or 500M") from error


def format_size(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    raise AssertionError
