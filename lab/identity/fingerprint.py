"""Hashes of files, folders and texts."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lab.data.image_files import visible_files
from lab.errors import ConfigError

READ_WHOLE = 2**30  # bytes; up to this total size all content is hashed
SAMPLE = 2**16  # bytes that are hashed at either end of each file of a larger set


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, in hexadecimal. Each part is hashed with its length, so that no two lists give the same
    bytes."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def fingerprint(path: Path, list_files: Callable[[Path], Iterable[Path]] = visible_files) -> str:
    """A hash of the names and contents of the file at `path`, or of the files below it. For more than READ_WHOLE bytes
    in total, it covers the names, the sizes and both ends of each file.

    list_files: function that lists the files of a folder that count; by default those that are not hidden, so that what
        a file browser or an editor leaves behind changes no hash.
    Raises ConfigError for what cannot be read.
    """
    try:
        files = sorted(list_files(path)) if path.is_dir() else [path]
        sizes = [file.stat().st_size for file in files]
        read_whole = sum(sizes) <= READ_WHOLE
        parts: list[str | bytes] = []
        for file, size in zip(files, sizes, strict=True):
            parts += [file.relative_to(path).as_posix(), str(size), content_digest(file, size, read_whole)]
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}; a run's id counts its content") from error
    return digest(*parts)


def content_digest(file: Path, size: int, read_whole: bool) -> bytes:
    """SHA-256 of a file's content, or of its two ends.  size: size of the file in bytes."""
    with open(file, "rb") as handle:
        if read_whole or size <= 2 * SAMPLE:
            return hashlib.file_digest(handle, "sha256").digest()
        head = handle.read(SAMPLE)
        handle.seek(-SAMPLE, os.SEEK_END)
        return hashlib.sha256(head + handle.read()).digest()
