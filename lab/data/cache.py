"""What takes long to make of data, kept by the content that it is made of: tokens of a corpus, pixels of images."""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from lab.user_cache import cache_folder, cache_limit

Tensors = dict[str, Tensor]
SUFFIX = ".safetensors"


def cached(
    folder: Path, parts: Iterable[str | bytes], make: Callable[[], Tensors], limit: int | None = None
) -> Tensors:
    """The tensors that `make` gives, read from a file in `folder` where they were made of the same parts before. They
    are mapped into memory, so processes that read the same file share it.

    parts: everything that decides the tensors.
    limit: size of the folder in bytes beyond which files are removed, those first that were not used for longest; None
        for no limit.
    A folder that cannot be written to is left alone.
    """
    from safetensors.torch import load_file, save_file

    file = folder / f"{hash_parts(parts)}{SUFFIX}"
    with suppress(Exception):  # no such file, or one that is damaged: it is made again
        kept = load_file(file)
        with suppress(OSError):
            os.utime(file)
        return kept
    made = make()
    size = sum(tensor.nbytes for tensor in made.values())
    if limit is not None and size > limit:
        return made
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if limit is not None:
            make_room(folder, limit - size)
        save_file({name: tensor.contiguous() for name, tensor in made.items()}, partial)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()
    return made


def cached_pixels(parts: Iterable[str | bytes], make: Callable[[], Tensors]) -> Tensors:
    """As `cached`, in the user's cache and within its limit; made anew each time where that is 0."""
    limit = cache_limit()
    return cached(cache_folder(), parts, make, limit) if limit else make()


def make_room(folder: Path, limit: int) -> None:
    """Remove files of the cache until they take at most `limit` bytes, those first that were not used for longest."""
    files = sorted(((path.stat(), path) for path in folder.glob(f"*{SUFFIX}")), key=lambda pair: pair[0].st_mtime)
    total = sum(stat.st_size for stat, _ in files)
    for stat, path in files:
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


def hash_parts(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))  # so that parts cannot run into one another
        digest.update(content)
    return digest.hexdigest()[:32]
