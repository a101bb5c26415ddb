"""States on disk: written whole, verified before they are trusted, loaded without running code."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from lab.errors import CorruptCheckpoint
from lab.record.files import replace_file


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write `state` to `path`.  keep: where the file that was there before stays."""
    path.parent.mkdir(exist_ok=True)
    with replace_file(path, keep) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises Corrupt where the file is torn or a bit of it has changed."""
    try:
        # torch.load takes a flipped bit for a weight; the archive's own CRC does not
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CorruptCheckpoint(f"{path}: {damaged} has changed since it was written")
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
    """The first of `paths` that is there and sound, and what was wrong with those before it."""
    wrong: list[str] = []
    for path in paths:
        if path.exists():
            try:
                return load_checkpoint(path), wrong
            except CorruptCheckpoint as error:
                wrong.append(str(error))
    return None, wrong
