"""Writes to a run's or a sweep's directory, and locks of directories.

A directory may come from someone else, so no write follows a link in it: a file is made anew and renamed into place, or
it is opened here. tests/test_links.py plants links under every name that lab writes.
"""

import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from lab.errors import DamagedRun, Refused, RunInUse

SURROGATES = "backslashreplace"  # how JSON spells half a character, such as a byte of a file name that is not UTF-8
LARGEST_FILE = 100_000_000  # bytes of a file of JSON or YAML that is read
LONGEST_LINE = 10_000_000  # bytes of a line of metrics.jsonl or plan.jsonl
SUBFOLDERS = ("checkpoints", ".hydra")  # of a run


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after a crash at any instruction it holds the old content or the new, never a part."""
    with replace_file(path) as file:
        file.write(content)


@contextmanager
def replace_file(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` on leaving the context, once all of it is on the disk.

    keep: path under which the previous file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(create_file(temporary), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if keep and path.exists():
        keep.unlink(missing_ok=True)
        os.link(path, keep, follow_symlinks=False)
        sync_directory(path.parent)
    os.replace(temporary, path)
    sync_directory(path.parent)


def create_file(path: Path) -> int:
    """A descriptor of a new, empty file at `path`, to write to. What was there is removed: a link itself, not what it
    leads to."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def write_new(path: Path, text: str) -> None:
    """Write a new file at `path`, in place of what was there. Faster than `write_atomically`, for files that no result
    depends on."""
    with os.fdopen(create_file(path), "wb") as file:
        file.write(text.encode(errors="replace"))


def open_to_append(path: Path) -> int:
    """A descriptor of the file at `path`, to read and to append to; a missing file is created.

    A file that has other names (hard links) is replaced by a copy first, so that only this name changes. Raises
    DamagedRun for a link and for anything else that is not a regular file.
    """
    refuse_link(path)
    # O_NONBLOCK: opening a pipe would wait for its other end
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, 0o666)
    facts = os.fstat(handle)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
        return handle
    os.close(handle)
    if not stat.S_ISREG(facts.st_mode):
        raise DamagedRun(f"{path} is not a regular file; move it away")
    write_atomically(path, path.read_bytes())
    return os.open(path, flags, 0o666)


def refuse_link(path: Path) -> None:
    """Raises DamagedRun where there is a link at `path`."""
    if path.is_symlink():
        raise DamagedRun(
            f"{path} is a link to {os.readlink(path)}, and lab writes only to files of the directory itself; put a "
            "copy of the file in its place, or remove the link"
        )


def make_folder(path: Path) -> None:
    """Create a folder inside a run or a sweep where it is missing. Raises DamagedRun for a link."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def make_directory(path: Path) -> None:
    """Create a run's or a sweep's directory where it is missing. Folders above it may be links, such as outputs/ on
    another disk.

    Raises Refused where the directory is a link itself, and DamagedRun where one of its SUBFOLDERS is.
    """
    if path.is_symlink():
        raise Refused(f"{path} is a link to {os.readlink(path)}; give that directory itself to have lab write to it")
    path.mkdir(parents=True, exist_ok=True)
    for name in SUBFOLDERS:
        refuse_link(path / name)


@contextmanager
def file_if_written(path: Path) -> Iterator[TextIO]:
    """A new file at `path` to write to, which is removed on leaving the context where it is empty."""
    with os.fdopen(create_file(path), "w") as file:
        yield file
    if not path.stat().st_size:
        path.unlink()


def remove_partial_files(directory: Path) -> None:
    """Remove the half-written files that `replace_file` left in `directory` when its process was killed."""
    for path in directory.glob(".*.*"):
        if path.suffix[1:].isdigit() and (path.is_symlink() or not path.is_dir()):
            path.unlink()


def sync_directory(directory: Path) -> None:
    """Write the directory's entries to the disk: until then a crash may undo a rename."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Raises ValueError for a number that JSON cannot hold (NaN, infinity)."""
    write_atomically(
        path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(errors=SURROGATES)
    )


def read_json(path: Path, default: Any = None) -> Any:
    """The value in `path`; `default` where there is no such regular file, or it is not valid JSON. Raises DamagedRun
    for a file that is larger than any run's."""
    if not path.is_file():
        return default
    check_size(path)
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return default


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The mappings in the lines of a file, up to the first line that is torn or damaged, or longer than any line of
    lab's; none where there is no such regular file."""
    try:
        with open(path, "rb") if path.is_file() else nullcontext() as file:  # a pipe would never end
            while file and (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
                content = json.loads(line)
                if not isinstance(content, dict):
                    return
                yield content
    except (OSError, ValueError, RecursionError):
        return


def check_size(path: Path) -> None:
    """Raises DamagedRun for a file that is not read, as it is larger than LARGEST_FILE."""
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise DamagedRun(f"{path} has {size / 1e6:.0f} MB, and no run writes more than {LARGEST_FILE / 1e6:.0f}")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Lock `directory` for this process alone; a missing one is created. The kernel releases the lock when the process
    ends.

    Raises RunInUse where another process holds it, and as `make_directory`.
    """
    make_directory(directory)
    with os.fdopen(open_to_append(directory / ".lock"), "a+") as lock:
        try:
            acquire_lock(lock)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "of unknown number"
            raise RunInUse(f"process {owner} is working in {directory}; wait for it to end") from None
        LOCKS.add(lock.fileno())
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            LOCKS.discard(lock.fileno())


def acquire_lock(lock: TextIO, patience: float = 0.05) -> None:
    """Take a lock. Waits up to `patience` seconds, as the `is_locked` of another process holds the lock for a
    moment."""
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


def release_inherited_locks() -> None:
    """Close the locks in a forked child, such as a loader's worker: it may outlive the owner and must not keep them."""
    for lock in LOCKS:
        os.close(lock)
    LOCKS.clear()


LOCKS: set[int] = set()
os.register_at_fork(after_in_child=release_inherited_locks)


def is_locked(directory: Path) -> bool:
    """Whether a live process holds `directory`."""
    try:
        # O_NONBLOCK: opening a pipe would wait for its other end
        with os.fdopen(os.open(directory / ".lock", os.O_RDONLY | os.O_NONBLOCK)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a file system without locks
        return False
    return False


def slugify(text: str, longest: int = 80) -> str:
    """A file name made from `text`, of letters, digits and `._=,+-`, at most `longest` characters, never hidden or a
    path."""
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text).strip("._-")[:longest].rstrip("._-,")
