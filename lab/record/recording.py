"""A run directory while its run trains: writes manifest, status and log, and at the end the seal or the error."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.errors import Diverged, Stopped
from lab.record.files import (
    file_if_written,
    open_to_append,
    read_json,
    remove_partial_files,
    write_json,
    write_new,
)
from lab.record.status import hash_sealed_files, write_status
from lab.redact import redact_values
from lab.text import error_message, format_traceback, summarize_error
from lab.train.stop import StopSignal

Finish = Callable[[Mapping[str, float]], None]


@contextmanager
def recording(
    directory: Path, manifest: Mapping[str, Any], stop: StopSignal, earlier: Sequence[logging.LogRecord] = ()
) -> Iterator[Finish]:
    """Record a run in `directory`, whose lock the caller holds (`lab.record.files.lock_directory`). The status is
    `running` inside; on an exception, which propagates, it becomes `interrupted`, `diverged` or `failed`.

    Gives `finish(results)`, to be called at the run's end: on leaving, results.json is written, the directory sealed
    and the status set to `done`.
    manifest: content of manifest.json, with `id` and `segments`.  stop: the run's stop signal, whose watchdog reports
    crashes.  earlier: what was logged while the run was built, for its log.
    """
    for folder in (directory, directory / "checkpoints"):
        remove_partial_files(folder)
    write_json(directory / "manifest.json", manifest)
    facts = {"id": manifest["id"], "started": manifest["segments"][-1]["started"]}
    write_status(directory, "running", **facts, step_timeout=stop.watchdog.step_timeout)
    error_file = directory / "error.txt"  # the watchdog's report of a crash, or the traceback of an error

    finished: list[Mapping[str, float]] = []
    try:
        with (
            file_if_written(error_file) as crash_file,
            stop.watchdog.watch(crash_file),
            log_to_file(directory / "run.log", earlier),
        ):
            yield finished.append
        for results in finished:  # once the watchdog's file is gone: a run that says `done` has no error.txt
            end_segment(directory)
            write_json(directory / "results.json", results)
            write_status(directory, "done", **facts, ended=time.time(), sealed=hash_sealed_files(directory))
    except (KeyboardInterrupt, Stopped) as stopped:
        end_segment(directory)
        reason = str(stopped) if isinstance(stopped, Stopped) else "keyboard"
        write_status(
            directory, "interrupted", **facts, ended=time.time(), reason=reason, pruned=True if stop.pruned else None
        )
        raise
    except BaseException as error:  # SystemExit too: one bad run must not stop a sweep
        message, outside = describe_error(error)
        write_traceback(error_file, error)
        with suppress(OSError):  # without this status, `running` without a lock still shows that the run ended
            state = "diverged" if isinstance(error, Diverged) else "failed"
            ended = time.time()
            write_status(directory, state, **facts, ended=ended, error=message, outside=outside, traceback="error.txt")
        raise


def describe_error(error: BaseException) -> tuple[str, bool]:
    """The message of an error, with a hint on what to type next, and whether its cause lies outside of the run, so that
    the same run may well succeed next time."""
    from lab.hardware import is_out_of_memory

    if isinstance(error, Diverged):
        return str(error), False
    if is_out_of_memory(error):
        hint = "lower data.batch_size, give hardware.micro_batch= (examples at once), or oom=shrink"
        return f"out of memory: {hint}; {(error_message(error) or type(error).__name__).splitlines()[0]}", True
    return redact_values(summarize_error(error)), isinstance(error, OSError)


def write_traceback(path: Path, error: BaseException) -> None:
    with suppress(OSError):  # the disk is full, and the error itself most likely says so
        write_new(path, redact_values(format_traceback(error)))


def end_segment(directory: Path) -> None:
    """Write into the manifest the time at which this process ended its segment of the run."""
    manifest = read_json(directory / "manifest.json")
    manifest["segments"][-1]["ended"] = time.time()
    write_json(directory / "manifest.json", manifest)


@contextmanager
def log_to_file(path: Path, earlier: Sequence[logging.LogRecord] = ()) -> Iterator[None]:
    """Write to `path`, too, what is logged inside the context.  earlier: records to write first."""
    with os.fdopen(open_to_append(path), "a") as file, closing(logging.StreamHandler(file)) as handler:
        for record in earlier:
            handler.handle(record)
        with added_handler(handler):
            yield


@contextmanager
def keep_log() -> Iterator[list[logging.LogRecord]]:
    """A list that takes what is logged inside the context, before there is a file for it."""
    keeper = LogKeeper()
    with added_handler(keeper):
        yield keeper.records


class LogKeeper(logging.Handler):
    """Keeps what is logged in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def added_handler(handler: logging.Handler) -> Iterator[None]:
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
