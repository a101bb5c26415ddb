"""The life of one run: asked for, checked, built, owned, trained, sealed. Torch is imported only where a run is new."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.composed import ComposedConfig
from lab.errors import Diverged
from lab.execution.manifest import build_manifest, end_segment, hparams_row, mark_inexact, write_config
from lab.execution.outcome import Outcome, RunOptions, describe_error, finished_outcome, write_traceback
from lab.identity.identity import Identity
from lab.record.files import lock_directory, read_json, remove_partial_files, write_json
from lab.record.status import hash_sealed_files, write_status
from lab.text import join_names

if TYPE_CHECKING:
    from lab.run import Run


def run_in_process(asked: ComposedConfig, identity: Identity, directory: Path, terms: RunOptions) -> Outcome:
    """Do the run in this process; raises as `do`."""
    from lab.build.build import build
    from lab.build.dry_run import dry_run

    restore_threads(asked, directory)
    run = build(asked.config)
    batch = dry_run(run)
    with lock_directory(directory):
        # another process may have done it since
        return finished_outcome(identity, directory) or train_and_record(run, batch, asked, identity, directory, terms)


def restore_threads(asked: ComposedConfig, directory: Path) -> None:
    """A run that goes on has as many threads as when it began: another number adds up in another order."""
    import torch

    before = read_json(directory / "manifest.json", {}).get("segments", [])
    if before and asked.config["hardware"].get("threads") is None:
        torch.set_num_threads(before[0]["threads"])


def train_and_record(
    run: "Run", batch: Any, asked: ComposedConfig, identity: Identity, directory: Path, terms: RunOptions
) -> Outcome:
    """Train the run and leave its end in status.json, whatever that end is."""
    from lab.errors import Stopped

    started = time.time()
    for folder in (directory, directory / "checkpoints"):
        remove_partial_files(folder)
    write_config(asked, directory)
    write_json(directory / "manifest.json", build_manifest(run, asked, identity, directory, started, terms.around))
    write_status(directory, "running", id=identity.id, started=started, step_timeout=terms.pulse.step_timeout)
    finish = partial(write_status, directory, id=identity.id, started=started)
    error_file = directory / "error.txt"  # of an earlier try, or of this one's crash
    try:
        with terms.pulse.watch(error_file), log_to_file(directory):
            results = train_with_oom_retry(run, batch, asked, directory, terms)
        end_segment(directory)
        write_json(directory / "results.json", results)
        finish("done", ended=time.time(), sealed=hash_sealed_files(directory))
        return Outcome(directory, "done", results)
    except KeyboardInterrupt:
        end_segment(directory)
        finish("interrupted", ended=time.time(), reason="keyboard")
        raise
    except Stopped as stop:
        end_segment(directory)
        finish("interrupted", ended=time.time(), reason=str(stop))
        pruned = str(stop).startswith("stopped early by")  # until the stop signal says so
        return Outcome(directory, "interrupted", {}, error=str(stop), pruned=pruned)
    except BaseException as error:  # SystemExit as well: one bad run never stops a sweep
        state = "diverged" if isinstance(error, Diverged) else "failed"
        said, outside = describe_error(error)
        outcome = Outcome(directory, state, {}, error=said, outside=outside)
        write_traceback(error_file, error)
        with suppress(OSError):  # that nobody holds a run that says it is running tells as much
            finish(state, ended=time.time(), error=said, outside=outside, traceback=error_file.name)
        return outcome


@contextmanager
def log_to_file(directory: Path) -> Iterator[None]:
    """What is logged meanwhile goes to run.log too."""
    log = logging.FileHandler(directory / "run.log")
    logging.getLogger().addHandler(log)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(log)
        log.close()


def train_with_oom_retry(
    run: "Run", batch: Any, asked: ComposedConfig, directory: Path, terms: RunOptions
) -> dict[str, float]:
    """With oom=shrink, a run that memory does not suffice for goes on from its checkpoint with half the micro-batch."""
    from lab.build.build import build
    from lab.hardware import is_out_of_memory
    from lab.train.micro_batches import half_micro_batch

    while True:
        try:
            return train_run(run, batch, asked, directory, terms)
        except BaseException as error:
            if asked.config["oom"] != "shrink" or not is_out_of_memory(error):
                raise
            micro = half_micro_batch(batch, run.hardware.micro_batch)
            if micro is None:
                raise
            said = f"micro-batch {micro}, memory did not suffice for more"
        release_memory(run)  # whoever called still holds it, and memory is short
        run = build({**asked.config, "hardware": {**asked.config["hardware"], "micro_batch": micro}})
        mark_inexact(directory, said)
        logging.getLogger(__name__).warning("%s: %s", directory, said)


def release_memory(run: "Run") -> None:
    run.model.to("meta")
    run.regularize.scored(run.model).to("meta")
    run.optimizer.state.clear()


def train_run(run: "Run", batch: Any, asked: ComposedConfig, directory: Path, terms: RunOptions) -> dict[str, float]:
    from lab.build.build import instantiate
    from lab.record.console import Console
    from lab.record.record import Record
    from lab.train.loop import execute, train
    from lab.train.profile import train_with_profiler

    def introduce(record: Record) -> None:
        record.writer.hparams(directory.name[-8:], hparams_row(asked))
        record.inputs(batch)

    with (terms.show or Console)(run.cadence.steps) as console:
        if not terms.show:
            if loaded := vars(run.model).get("loaded"):
                console.note(f"weights: {loaded}")
            for line in describe_groups(asked, directory, run.cadence.epoch(run.cadence.steps)):
                console.note(line)
            if left := frozen_at_random(run):
                console.note(f"  frozen at a random start: {join_names(left)}")
        record = Record(directory, console, instantiate(asked.config, "logger"), introduce)
        try:
            trainer = partial(train_with_profiler, directory=directory) if asked.config.get("profile") else train
            return execute(run, record, trainer, terms.pulse)
        finally:
            record.close()


def frozen_at_random(run: "Run") -> list[str]:
    """What the weights lack and the strategy does not train: a choice, or a slip."""
    trained = {id(p) for p in run.trainable}
    new = getattr(run.model, "new_parameters", ())
    return [name for name, p in run.model.named_parameters() if name in new and id(p) not in trained]


def describe_groups(asked: ComposedConfig, directory: Path, epochs: float) -> list[str]:
    """What the strategy trains, in a line each group."""
    from lab.finetune.groups import format_groups

    found = read_json(directory / "manifest.json")
    first, *groups = format_groups(found["groups"], found["parameters"], epochs)
    return [f"finetune_strategy={asked.choices.get('finetune_strategy')} {first}", *groups]
