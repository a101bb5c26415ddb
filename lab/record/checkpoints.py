"""Checkpoint files: written atomically, verified by their CRCs, and loaded without running code."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from lab.errors import CorruptCheckpoint
from lab.models.state_files import find_damage
from lab.record.files import make_folder, replace_file


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write `state` to `path`.  keep: path to which the previous checkpoint is moved; None: it is overwritten."""
    make_folder(path.parent)
    with replace_file(path, keep) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises CorruptCheckpoint where the file is missing, torn or changed."""
    try:
        # torch.load would read a flipped bit as another weight; the CRC of the archive finds it
        if damage := find_damage(path):
            raise CorruptCheckpoint(f"{path}: {damage}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
    ) as error:
        raise CorruptCheckpoint(f"{path}: {error}") from error


def load_newest_checkpoint(paths: list[Path]) -> tuple[dict[str, Any] | None, list[str]]:
    """The state in the first of `paths` that exists and is sound, or None, and the problems of the paths before it.

    paths: newest first.
    """
    problems: list[str] = []
    for path in paths:
        if path.exists():
            try:
                return load_checkpoint(path), problems
            except CorruptCheckpoint as error:
                problems.append(str(error))
    return None, problems
