"""Hashes of files, folders and texts."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

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


def fingerprint(path: Path) -> str:
    """A hash of the names and contents of the files at or below `path`. For more than READ_WHOLE bytes in total, it
    covers the names, the sizes and both ends of each file."""
    files = sorted(files_below(path)) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in files]
    read_whole = sum(sizes) <= READ_WHOLE
    parts: list[str | bytes] = []
    for file, size in zip(files, sizes, strict=True):
        parts += [file.relative_to(path).as_posix(), str(size), content_digest(file, size, read_whole)]
    return digest(*parts)


def files_below(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path, followlinks=True):
        yield from (Path(folder, name) for name in names)


def content_digest(file: Path, size: int, read_whole: bool) -> bytes:
    """SHA-256 of a file's content, or of its two ends.  size: size of the file in bytes."""
    with open(file, "rb") as handle:
        if read_whole or size <= 2 * SAMPLE:
            return hashlib.file_digest(handle, "sha256").digest()
        head = handle.read(SAMPLE)
        handle.seek(-SAMPLE, os.SEEK_END)
        return hashlib.sha256(head + handle.read()).digest()
