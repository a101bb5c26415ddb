"""A sweep's own directory: a link to each of its runs, the columns of its HPARAMS table, a table of its results."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.names import key_and_value
from lab.record.files import slug


def sweep_name(overrides: Sequence[str]) -> str:
    """`<name>-<id8>`, the same for the same overrides in any order."""
    pairs = [key_and_value(override) for override in overrides]
    swept = [key.rpartition(".")[2] for key, value in pairs if any(sign in value for sign in ",(*")]
    chosen = [value for key, value in pairs if key == "experiment"]
    name = slug("_".join([*chosen, *swept])) or "sweep"
    return f"{name}-{hashlib.sha256(chr(0).join(sorted(overrides)).encode()).hexdigest()[:8]}"


def link(sweep: Path, number: int, run: Path) -> None:
    """`<n>-<id8>` in the sweep's directory, pointing to a run that lies elsewhere."""
    if run.resolve().is_relative_to(sweep.resolve()):
        return
    for old in sweep.glob(f"{number}-*"):
        if old.is_symlink():  # of other code or other data
            old.unlink()
    place = sweep / f"{number}-{run.name[-8:]}"
    place.symlink_to(os.path.relpath(run, sweep), target_is_directory=True)


def write_columns(sweep: Path, hparams: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    """Tell TensorBoard what the sweep's HPARAMS table has for columns, once."""
    from lab.record.tensorboard import TensorBoard

    for old in sweep.glob("events.out.tfevents.*"):
        old.unlink()
    writer = TensorBoard(sweep)
    writer.columns([dict(values) for values in hparams], list(metrics))
    writer.close()
