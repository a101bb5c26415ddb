"""A run directory while its run is under way: held, described, watched, and sealed or marked with how the run ended."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.errors import Diverged, Stopped
from lab.record.files import read_json, remove_partial_files, write_json
from lab.record.status import hash_sealed_files, write_status
from lab.train.stop import StopSignal

Finish = Callable[[Mapping[str, float]], None]


@contextmanager
def recording(directory: Path, manifest: Mapping[str, Any], stop: StopSignal) -> Iterator[Finish]:
    """Record a run in `directory`, which the caller holds (`lab.record.files.lock_directory`): `running` on entry,
    `done` where the run finished, else how it ended. Exceptions propagate.

    Gives `finish(results)`, which writes results.json and seals the directory.
    manifest: content of manifest.json, with `id` and `segments`.  stop: the run's, whose watchdog reports crashes.
    """
    for folder in (directory, directory / "checkpoints"):
        remove_partial_files(folder)
    write_json(directory / "manifest.json", manifest)
    facts = {"id": manifest["id"], "started": manifest["segments"][-1]["started"]}
    write_status(directory, "running", **facts, step_timeout=stop.watchdog.step_timeout)
    error_file = directory / "error.txt"  # of an earlier attempt, or of a crash of this one

    def finish(results: Mapping[str, float]) -> None:
        end_segment(directory)
        write_json(directory / "results.json", results)
        write_status(directory, "done", **facts, ended=time.time(), sealed=hash_sealed_files(directory))

    try:
        with stop.watchdog.watch(error_file), log_to_file(directory / "run.log"):
            yield finish
    except (KeyboardInterrupt, Stopped) as stopped:
        end_segment(directory)
        reason = str(stopped) if isinstance(stopped, Stopped) else "keyboard"
        write_status(
            directory, "interrupted", **facts, ended=time.time(), reason=reason, pruned=True if stop.pruned else None
        )
        raise
    except BaseException as error:  # SystemExit as well: one bad run never stops a sweep
        message, outside = describe_error(error)
        write_traceback(error_file, error)
        with suppress(OSError):  # an unheld directory that says `running` tells as much
            state = "diverged" if isinstance(error, Diverged) else "failed"
            ended = time.time()
            write_status(directory, state, **facts, ended=ended, error=message, outside=outside, traceback="error.txt")
        raise


def describe_error(error: BaseException) -> tuple[str, bool]:
    """What went wrong, with what to type next, and whether its cause lies outside of the run, so that the same run may
    well end otherwise."""
    from lab.hardware import is_out_of_memory

    if isinstance(error, Diverged):
        return str(error), False
    if is_out_of_memory(error):
        hint = "lower data.batch_size, give hardware.micro_batch= (examples at once), or oom=shrink"
        return f"out of memory: {hint}; {str(error).splitlines()[0] if str(error) else type(error).__name__}", True
    return f"{type(error).__name__}: {error}", isinstance(error, OSError)


def write_traceback(path: Path, error: BaseException) -> None:
    with suppress(OSError):  # the disk is full, which is what the error says too
        path.write_text("".join(traceback.format_exception(error)))


def end_segment(directory: Path) -> None:
    """Note in the manifest when this process ended its part of the run."""
    manifest = read_json(directory / "manifest.json")
    manifest["segments"][-1]["ended"] = time.time()
    write_json(directory / "manifest.json", manifest)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write what is logged meanwhile to `path` as well."""
    handler = logging.FileHandler(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
