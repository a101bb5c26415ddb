"""lab rerun: run an old run again from its stored config, and say what has changed since."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns
from lab.cli.resume import check_own_code, read_job
from lab.cli.train import train_single_run
from lab.config.composed import ComposedConfig
from lab.config.groups import GROUPS
from lab.config.override_config import override_config
from lab.config.overrides import split_override
from lab.config.studies import merge_overrides
from lab.errors import ConfigError
from lab.identity.identity import Identifier
from lab.identity.run_directory import run_directory, runs_folder
from lab.ledger.diff import diff_runs
from lab.ledger.listing import runs_by_id
from lab.ledger.saved_run import SavedRun
from lab.sweep.plan import Job
from lab.text import format_cell, relative_to_cwd

MOST_LINES = 40


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "lab rerun",
        description="Run an old run again from its stored config, and say what of code, data, packages and machine has "
        "changed since, and whether the bits are the same.",
    )
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("overrides", nargs="*", help="keys to change, such as seed=1")
    options = parse_arguments(parser, arguments)
    old = read_run(options.run, options.outputs)
    job = prepare_rerun(old, options.overrides, options.outputs)
    code = train_single_run(job.composed, job.identity, job.directory)
    if code == 0:
        print("\n".join(changed_since(old, SavedRun(job.directory))))
    return code


def prepare_rerun(old: SavedRun, overrides: list[str], outputs: Path) -> Job:
    """The job that repeats a run, in a directory of its own. Raises ConfigError where it has a secret, or code that
    came with the directory."""
    before = read_job(old)
    if "<redacted>" in str(old.config):
        raise ConfigError(f"a secret of {old.directory} is not kept on disk; give its command again, with again=true")
    check_own_code([before], old.directory)
    config = dict(override_config(dict(old.config), overrides) if overrides else old.config)
    config |= {"again": True, "paths": {**config.get("paths", {}), "outputs": str(outputs)}}
    chosen = dict(map(split_override, overrides))
    choices = {**before.composed.choices, **{key: value for key, value in chosen.items() if key in GROUPS}}
    composed = ComposedConfig(
        config, config, before.composed.hydra, merge_overrides(before.composed.overrides, overrides), choices
    )
    identity = Identifier()(composed.resolved)
    directory = run_directory(composed, identity.id, runs_by_id(runs_folder(composed)))
    return Job(0, composed, identity, relative_to_cwd(directory.absolute()))


def changed_since(old: SavedRun, new: SavedRun) -> list[str]:
    """What differs between the old run and the new one, and whether the final weights have the same bits."""
    rows = [
        [name, format_cell(before)[:60], format_cell(after)[:60]]
        for name, before, after in diff_runs(old, new)
        if not name.startswith(("again", "paths.", "result: hardware/"))
    ]
    lines = ["", "changed since: nothing"]
    if rows:
        more = [[f"… and {len(rows) - MOST_LINES} more", "", ""]] if len(rows) > MOST_LINES else []
        table = [["changed since", "then", "now"], *rows[:MOST_LINES], *more]
        lines = ["", *align_columns(table).splitlines()]
    return [*lines, compare_weights(old, new)]


def compare_weights(old: SavedRun, new: SavedRun) -> str:
    """Whether the final weights of two runs have the same bits, in a sentence."""
    if not old.final_weights.is_file():
        return f"bits: not compared, as {old.directory} has no checkpoint"
    first, second = (model_weights(run) for run in (old, new))
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return "bits: the models have other weights"
    import torch

    differing = [name for name in first if not torch.equal(first[name], second[name])]
    if not differing:
        return f"bits: the same, in all {len(first)} tensors"
    largest = max(float((first[name].double() - second[name].double()).abs().max()) for name in differing)
    return f"bits: {len(differing)} of {len(first)} tensors differ, by {largest:.3g} at most"


def model_weights(run: SavedRun) -> Mapping[str, Any]:
    from lab.record.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(run.final_weights)
    return checkpoint["model"] if run.final_weights.name == "best.pt" else checkpoint["run"]["model"]
