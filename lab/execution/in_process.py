"""One run in this process: build it, try it, lock its directory, train it and record it. Torch is imported only inside
the functions, so that a finished run is found without it."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config.composed import ComposedConfig
from lab.errors import Diverged, Stopped
from lab.execution.manifest import build_manifest, hparams_row, write_config
from lab.execution.outcome import Outcome, RunOptions, finished_outcome
from lab.identity.identity import Identity
from lab.interpreter import collect_as_usual
from lab.ledger.saved_run import SavedRun
from lab.metrics.scores import scores_alone
from lab.record.files import lock_directory, slugify, write_atomically
from lab.text import error_message, join_names
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.assembly.dry_run import DryRun
    from lab.run import Run

SIGNAL_GRACE = 0.5  # seconds in which a signal sent to several processes reaches all of them


def run_in_process(composed: ComposedConfig, identity: Identity, directory: Path, options: RunOptions) -> Outcome:
    """Bring the run to its end in this process; raises as `lab.execution.run_job.run_job`."""
    from lab.assembly.build import build
    from lab.assembly.dry_run import dry_run
    from lab.record.recording import keep_log

    restore_threads(composed, directory)
    with keep_log() as log:
        run = build(composed.resolved)
        trial = dry_run(run)
    collect_as_usual()
    with lock_directory(directory):
        # another process may have finished it since
        outcome = finished_outcome(identity, SavedRun(directory))
        return outcome or train_and_record(run, trial, composed, identity, directory, options, log)


def restore_threads(composed: ComposedConfig, directory: Path) -> None:
    """Give a resumed run as many threads as it began with, since the number of threads decides the order of sums."""
    import torch

    segments = SavedRun(directory).manifest.get("segments", [])
    if segments and composed.resolved["hardware"].get("threads") is None:
        torch.set_num_threads(segments[0]["threads"])


def train_and_record(
    run: "Run",
    trial: "DryRun",
    composed: ComposedConfig,
    identity: Identity,
    directory: Path,
    options: RunOptions,
    log: Sequence[logging.LogRecord],
) -> Outcome:
    """Train the run and record how it ends. Raises nothing but KeyboardInterrupt.  log: records of its build."""
    from lab.record.recording import describe_error, recording

    write_config(composed, directory)
    manifest = build_manifest(run, trial.monitor, composed, identity, directory, options.environment)
    try:
        with recording(directory, manifest, options.stop, log) as finish:
            results = train_with_oom_retry(run, trial, composed, directory, options)
            finish(results)
        return Outcome(directory, "done", scores_alone(results))
    except KeyboardInterrupt:
        raise
    except Stopped as stopped:
        return Outcome(directory, "interrupted", error=str(stopped), pruned=options.stop.pruned)
    except BaseException as error:
        message, outside = describe_error(error)
        state = "diverged" if isinstance(error, Diverged) else "failed"
        return Outcome(directory, state, error=message, outside=outside)


def train_with_oom_retry(
    run: "Run", trial: "DryRun", composed: ComposedConfig, directory: Path, options: RunOptions
) -> dict[str, float]:
    """Train the run. With oom=shrink, a run that is out of memory continues from its last checkpoint with half the
    micro-batch."""
    from lab.assembly.build import build
    from lab.hardware import is_out_of_memory
    from lab.record.run_facts import mark_inexact
    from lab.train.micro_batches import half_micro_batch

    while True:
        try:
            return train_run(run, trial, composed, directory, options)
        except BaseException as error:
            if composed.resolved["oom"] != "shrink" or not is_out_of_memory(error):
                raise
            micro_batch = half_micro_batch(run.task, trial.batch, run.hardware.micro_batch)
            if micro_batch is None:
                raise
        release_memory(run)  # the caller still has a reference to it
        hardware = {**composed.resolved["hardware"], "micro_batch": micro_batch}
        run = build({**composed.resolved, "hardware": hardware})
        message = f"micro-batch {micro_batch}, memory did not suffice for more"
        mark_inexact(directory, message)
        logging.getLogger(__name__).warning("%s: %s", directory, message)


def release_memory(run: "Run") -> None:
    """Free the memory of the model, of the model to score and of the optimizer's state."""
    run.model.to("meta")
    run.regularize.model_to_score(run.model).to("meta")
    run.optimizer.state.clear()


def train_run(
    run: "Run", trial: "DryRun", composed: ComposedConfig, directory: Path, options: RunOptions
) -> dict[str, float]:
    """Train and score the run, show its progress and write its files."""
    from lab.assembly.build import instantiate
    from lab.record.console import Console
    from lab.record.record import Record
    from lab.train.loop import execute, train
    from lab.train.profile import train_with_profiler

    def introduce(record: Record) -> None:
        record.writer.hparams(directory.name[-8:], hparams_row(composed))
        record.draw_batch(run, trial.batch)
        for folder, part in (("", getattr(run.data, "reader", None)), ("model", run.model)):
            for name, content in getattr(part, "files", {}).items():
                (directory / folder).mkdir(exist_ok=True)
                write_atomically(directory / folder / slugify(name), content)

    with (options.progress or Console)(run.cadence.steps) as console:
        if not options.progress:
            for line in introduction(run, composed, directory):
                console.note(line)
        record = Record(directory, console, instantiate(composed.resolved, "logger"), introduce)
        try:
            trainer = partial(train_with_profiler, directory=directory) if composed.resolved.get("profile") else train
            return execute(run, record, trainer, options.stop)
        except RuntimeError as error:
            raise_if_stopped(error, options.stop)
            raise
        finally:
            record.close()


def raise_if_stopped(error: RuntimeError, stop: StopSignal) -> None:
    """Raise Stopped where the error is the end of a loader worker by a signal that was sent to all processes of a job,
    this one included. Such a run is no failure; it goes on from its last checkpoint."""
    if "DataLoader worker" not in error_message(error):
        return
    time.sleep(SIGNAL_GRACE)
    if stop.reason:
        raise Stopped(f"{stop.reason}, which ended a loader worker too; it goes on from its last checkpoint") from error


def introduction(run: "Run", composed: ComposedConfig, directory: Path) -> list[str]:
    """The lines that are printed before the first step: the data set's own description, the origin of the weights, and
    the parameters that are trained."""
    from lab.finetune.groups import format_groups
    from lab.models.origin import origin_of

    manifest = SavedRun(directory).manifest
    lines = format_groups(manifest["groups"], manifest["parameters"], run.cadence.epoch(run.cadence.steps))
    lines[0] = f"finetune_strategy={composed.choices.get('finetune_strategy')} {lines[0]}"
    if origin := origin_of(run.model):
        lines.insert(0, f"weights: {origin}")
    if description := getattr(run.data, "description", ""):
        lines.insert(0, f"data: {description}")
    if pairs := trained_elsewhere(run):
        lines += [f"  one tensor, which trains in both: {' and '.join(names)}" for names in pairs]
    if parameters := frozen_at_random(run):
        lines.append(f"  frozen at a random start: {join_names(parameters)}")
    return lines


def trained_elsewhere(run: "Run") -> list[list[str]]:
    """The names of each tied parameter that trains, where others are frozen: a module that looks frozen may hold it."""
    from lab.models.tied import parameter_names

    trained, names = {id(p) for p in run.trainable}, parameter_names(run.model)
    if trained >= names.keys():
        return []
    return [tied for key, tied in names.items() if key in trained and len(tied) > 1]


def frozen_at_random(run: "Run") -> list[str]:
    """The names of parameters that the loaded weights lack and the strategy does not train, perhaps by mistake."""
    from lab.models.origin import new_parameters_of

    trained = {id(p) for p in run.trainable}
    new = new_parameters_of(run.model)
    return [name for name, p in run.model.named_parameters() if name in new and id(p) not in trained]
