"""A sweep's own directory: a link to each of its runs, the columns of its HPARAMS table, a table of its results."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.record.files import slug
from lab.study.ledger import row


def sweep_name(overrides: Sequence[str]) -> str:
    """`<name>-<id8>`, the same for the same overrides in any order."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    swept = [key.rpartition(".")[2] for key, value in pairs if any(sign in value for sign in ",(*")]
    chosen = [value for key, value in pairs if key == "experiment"]
    name = slug("_".join([*chosen, *swept])) or "sweep"
    return f"{name}-{hashlib.sha256(chr(0).join(sorted(overrides)).encode()).hexdigest()[:8]}"


def link(sweep: Path, number: int, run: Path) -> None:
    """`<n>-<id8>` in the sweep's directory, pointing to a run that lies elsewhere."""
    if run.resolve().is_relative_to(sweep.resolve()):
        return
    place = sweep / f"{number}-{run.name[-8:]}"
    place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(run, sweep), target_is_directory=True)


def runs(sweep: Path) -> list[dict[str, Any]]:
    """The sweep's runs as rows, in order of their number."""
    here = [p for p in sweep.iterdir() if p.is_dir() and p.name.partition("-")[0].isdigit()]
    return [row(path) for path in sorted(here, key=lambda path: int(path.name.partition("-")[0]))]


def write_columns(sweep: Path, hparams: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    """Tell TensorBoard what the sweep's HPARAMS table has for columns, once."""
    from lab.record.tensorboard import TensorBoard

    for old in sweep.glob("events.out.tfevents.*"):
        old.unlink()
    writer = TensorBoard(sweep)
    writer.columns([dict(values) for values in hparams], list(metrics))
    writer.close()
