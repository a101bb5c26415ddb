"""The life of one run: asked for, checked, built, owned, trained, sealed. Torch is imported only where a run is new."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.asked import Asked
from lab.config.check import check
from lab.config.identity import Identity
from lab.names import listed
from lab.record.files import owned, read_json, remove_torn, write_json
from lab.record.status import Diverged, broken, is_done, seal, write_status
from lab.study.provenance import end_segment, hparams, manifest, not_exact, write_asked
from lab.study.pulse import Pulse

if TYPE_CHECKING:
    from lab.record.record import Progress
    from lab.run import Run


class Refused(Exception):
    """Not done, because it could cost somebody a result."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    new: whether it was this call that did it.  error: what went wrong, in a line or a few.  outside: whether that came
    from outside of the run (a signal, a full disk, memory), so that the same code may well end otherwise.
    """

    directory: Path
    state: str
    results: dict[str, float]
    new: bool = True
    error: str | None = None
    outside: bool = False


@dataclass(frozen=True)
class Terms:
    """On what terms a run is done.  pulse: says when to stop.  show: makes what shows progress, from the number of
    steps; None for a bar on a terminal.  around: the surroundings that go into the manifest.  checked: whether the
    config has been checked already.
    """

    pulse: Pulse = field(default_factory=Pulse)
    show: "Callable[[int], Progress] | None" = None
    around: Mapping[str, Any] | None = None
    checked: bool = False


def do(asked: Asked, identity: Identity, directory: Path, terms: Terms | None = None) -> Outcome:
    """Bring the run in `directory` to its end, from its newest checkpoint where there is one; or find it done.

    Raises ConfigError before anything has started, Refused where `directory` holds another run, Owned where another
    process is at it, KeyboardInterrupt when it was interrupted and recorded as such.
    """
    terms = terms or Terms()
    if found := done(identity, directory):
        return found
    place = directory.absolute()  # the run's code may change the working directory
    if not terms.checked:
        check(asked.config, str(asked.source))
    from lab.study.elastic import launched, processes

    several = processes(asked) > 1
    outcome = (launched if several else undertaken)(asked, identity, place, terms)
    return replace(outcome, directory=directory)


def undertaken(asked: Asked, identity: Identity, directory: Path, terms: Terms) -> Outcome:
    """Do the run in this process; raises as `do`."""
    from lab.config.build import build
    from lab.config.dry import dry_step

    keep_threads(asked, directory)
    run = build(asked.config)
    batch = dry_step(run)
    with owned(directory):
        # another process may have done it since
        return done(identity, directory) or recorded(run, batch, asked, identity, directory, terms)


def keep_threads(asked: Asked, directory: Path) -> None:
    """A run that goes on has as many threads as when it began: another number adds up in another order."""
    import torch

    before = read_json(directory / "manifest.json", {}).get("segments", [])
    if before and asked.config["hardware"].get("threads") is None:
        torch.set_num_threads(before[0]["threads"])


def done(identity: Identity, directory: Path) -> Outcome | None:
    """The outcome of a run that is done already, None for one that is not. Raises Refused as `do` does."""
    other = read_json(directory / "manifest.json", {}).get("id", identity.id)
    if other != identity.id:
        raise Refused(f"{directory} holds the run {other}, this is {identity.id}; choose another directory")
    if not is_done(directory):
        return None
    if changed := broken(directory, checkpoints=False):
        names = ", ".join(changed)
        raise Refused(f"{directory} is done, but {names} changed since; move it away, or give again=true")
    return Outcome(directory, "done", read_json(directory / "results.json", {}), new=False)


def recorded(run: "Run", batch: Any, asked: Asked, identity: Identity, directory: Path, terms: Terms) -> Outcome:
    """Train the run and leave its end in status.json, whatever that end is."""
    from lab.train.loop import Stopped

    started = time.time()
    for folder in (directory, directory / "checkpoints"):
        remove_torn(folder)
    write_asked(asked, directory)
    write_json(directory / "manifest.json", manifest(run, asked, identity, directory, started, terms.around))
    write_status(directory, "running", id=identity.id, started=started, step_timeout=terms.pulse.step_timeout)
    finish = partial(write_status, directory, id=identity.id, started=started)
    error_file = directory / "error.txt"  # of an earlier try, or of this one's crash
    try:
        with terms.pulse.watch(error_file), logged(directory):
            results = trained_or_shrunk(run, batch, asked, directory, terms)
        end_segment(directory)
        write_json(directory / "results.json", results)
        finish("done", ended=time.time(), sealed=seal(directory))
        return Outcome(directory, "done", results)
    except KeyboardInterrupt:
        end_segment(directory)
        finish("interrupted", ended=time.time(), reason="keyboard")
        raise
    except Stopped as stop:
        end_segment(directory)
        finish("interrupted", ended=time.time(), reason=str(stop))
        return Outcome(directory, "interrupted", {}, error=str(stop))
    except BaseException as error:  # SystemExit as well: one bad run never stops a sweep
        state = "diverged" if isinstance(error, Diverged) else "failed"
        said, outside = cause(error)
        outcome = Outcome(directory, state, {}, error=said, outside=outside)
        leave_error(error_file, error)
        with suppress(OSError):  # that nobody holds a run that says it is running tells as much
            finish(state, ended=time.time(), error=said, outside=outside, traceback=error_file.name)
        return outcome


def cause(error: BaseException) -> tuple[str, bool]:
    """What went wrong, with what to type next, and whether it came from outside of the run."""
    from lab.hardware import out_of_memory

    if isinstance(error, Diverged):
        return str(error), False
    if out_of_memory(error):
        lower = "lower data.batch_size, give hardware.micro_batch= (examples at once), or oom=shrink"
        return f"out of memory: {lower}; {str(error).splitlines()[0] if str(error) else type(error).__name__}", True
    return f"{type(error).__name__}: {error}", isinstance(error, OSError)


def leave_error(path: Path, error: BaseException) -> None:
    with suppress(OSError):  # the disk is full, which is what the error says too
        path.write_text("".join(traceback.format_exception(error)))


@contextmanager
def logged(directory: Path) -> Iterator[None]:
    """What is logged meanwhile goes to run.log too."""
    log = logging.FileHandler(directory / "run.log")
    logging.getLogger().addHandler(log)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(log)
        log.close()


def trained_or_shrunk(run: "Run", batch: Any, asked: Asked, directory: Path, terms: Terms) -> dict[str, float]:
    """With oom=shrink, a run that memory does not suffice for goes on from its checkpoint with half the micro-batch."""
    from lab.config.build import build
    from lab.hardware import out_of_memory
    from lab.train.micro import halved

    while True:
        try:
            return trained(run, batch, asked, directory, terms)
        except BaseException as error:
            if asked.config["oom"] != "shrink" or not out_of_memory(error):
                raise
            micro = halved(batch, run.hardware.micro_batch)
            if micro is None:
                raise
            said = f"micro-batch {micro}, memory did not suffice for more"
        empty(run)  # whoever called still holds it, and memory is short
        run = build({**asked.config, "hardware": {**asked.config["hardware"], "micro_batch": micro}})
        not_exact(directory, said)
        logging.getLogger(__name__).warning("%s: %s", directory, said)


def empty(run: "Run") -> None:
    run.model.to("meta")
    run.regularize.scored(run.model).to("meta")
    run.optimizer.state.clear()


def trained(run: "Run", batch: Any, asked: Asked, directory: Path, terms: Terms) -> dict[str, float]:
    from lab.config.build import instantiate
    from lab.record.console import Console
    from lab.record.record import Record
    from lab.train.loop import execute, train
    from lab.train.profile import profiled

    def introduce(record: Record) -> None:
        record.writer.hparams(directory.name[-8:], hparams(asked))
        record.inputs(batch)

    with (terms.show or Console)(run.cadence.steps) as console:
        if not terms.show:
            if loaded := vars(run.model).get("loaded"):
                console.note(f"weights: {loaded}")
            for line in trained_groups(asked, directory, run.cadence.epoch(run.cadence.steps)):
                console.note(line)
            if left := frozen_at_random(run):
                console.note(f"  frozen at a random start: {listed(left)}")
        record = Record(directory, console, instantiate(asked.config, "logger"), introduce)
        try:
            trainer = partial(profiled, directory=directory) if asked.config.get("profile") else train
            return execute(run, record, trainer, terms.pulse)
        finally:
            record.close()


def frozen_at_random(run: "Run") -> list[str]:
    """What the weights lack and the strategy does not train: a choice, or a slip."""
    trained = {id(p) for p in run.trainable}
    new = getattr(run.model, "new_parameters", ())
    return [name for name, p in run.model.named_parameters() if name in new and id(p) not in trained]


def trained_groups(asked: Asked, directory: Path, epochs: float) -> list[str]:
    """What the strategy trains, in a line each group."""
    from lab.finetune.groups import in_words

    found = read_json(directory / "manifest.json")
    first, *groups = in_words(found["groups"], found["parameters"], epochs)
    return [f"finetune_strategy={asked.choices.get('finetune_strategy')} {first}", *groups]
