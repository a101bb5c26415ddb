"""The life of one run: asked for, checked, built, owned, trained, sealed. Torch is imported only where a run is new."""

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lab.config.check import check
from lab.config.identity import Identity, identify
from lab.config.redact import redacted, redacted_text
from lab.names import key_and_value
from lab.record.files import owned, read_json, write_json
from lab.record.manifest import surroundings
from lab.record.status import Diverged, broken, is_done, seal, write_status

if TYPE_CHECKING:
    from lab.run import Run

FAILED = 1
INTERRUPTED = 130


class Refused(Exception):
    """Not done, because it could cost somebody a result."""


@dataclass(frozen=True)
class Asked:
    """What a run was asked for with.

    config: resolved, as plain values.  source: its YAML before interpolations were resolved.  hydra: Hydra's own node
    as YAML.  experiment: `<study>/<name>` or `train`.  overrides: of the command line.  choices: the option chosen of
    each group.
    """

    config: Mapping[str, Any]
    source: Mapping[str, Any]
    hydra: Mapping[str, Any]
    experiment: str
    overrides: list[str]
    choices: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.  new: whether it was this call that did it.  error: what went wrong, in a line or a few."""

    directory: Path
    state: str
    results: dict[str, float]
    new: bool = True
    error: str | None = None


def do(asked: Asked, directory: Path) -> Outcome:
    """Bring the run in `directory` to its end, from its newest checkpoint where there is one; or find it done.

    Raises ConfigError before anything has started, Refused where `directory` holds another run, Owned where another
    process is at it, KeyboardInterrupt when it was interrupted and recorded as such.
    """
    identity = identify(asked.config)
    if found := done(identity, directory):
        return found
    check(asked.config, str(asked.source))
    from lab.config.build import build, dry_step

    run = build(asked.config)
    batch = dry_step(run)
    with owned(directory):
        # another process may have done it since
        return done(identity, directory) or recorded(run, batch, asked, identity, directory)


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


def recorded(run: "Run", batch: Any, asked: Asked, identity: Identity, directory: Path) -> Outcome:
    """Train the run and leave its end in status.json, whatever that end is."""
    started = time.time()
    (directory / "error.txt").unlink(missing_ok=True)  # of an earlier try
    write_asked(asked, directory)
    write_json(directory / "manifest.json", manifest(run, asked, identity, directory, started))
    write_status(directory, "running", id=identity.id, started=started)
    finish = partial(write_status, directory, id=identity.id, started=started)
    log = logging.FileHandler(directory / "run.log")
    logging.getLogger().addHandler(log)
    try:
        results = trained(run, batch, asked, directory)
        write_json(directory / "results.json", results)
        end_segment(directory)
        finish("done", ended=time.time(), sealed=seal(directory))
        return Outcome(directory, "done", results)
    except KeyboardInterrupt:
        finish("interrupted", ended=time.time())
        raise
    except BaseException as error:  # SystemExit as well: one bad run never stops a sweep
        state = "diverged" if isinstance(error, Diverged) else "failed"
        (directory / "error.txt").write_text(traceback.format_exc())
        said = f"{type(error).__name__}: {error}" if state == "failed" else str(error)
        finish(state, ended=time.time(), error=said, traceback="error.txt")
        return Outcome(directory, state, {}, error=said)
    finally:
        logging.getLogger().removeHandler(log)
        log.close()


def trained(run: "Run", batch: Any, asked: Asked, directory: Path) -> dict[str, float]:
    from lab.config.build import instantiate
    from lab.record.console import Console
    from lab.record.record import Record
    from lab.train.loop import execute, train
    from lab.train.profile import profiled

    def introduce(record: Record) -> None:
        record.writer.hparams(directory.name[-8:], hparams(asked))
        record.inputs(batch)

    with Console(run.cadence.steps) as console:
        record = Record(directory, console, instantiate(asked.config, "logger"), introduce)
        try:
            trainer = partial(profiled, directory=directory) if asked.config.get("profile") else train
            return execute(run, record, trainer)
        finally:
            record.close()


def hparams(asked: Asked) -> dict[str, Any]:
    """The run's row in a table of runs: the options chosen, and what was overridden."""
    shown = ("model", "data", "augment", "optimizer", "schedule", "finetune_strategy", "regularize")
    chosen = {group: asked.choices[group] for group in shown if asked.choices.get(group) is not None}
    return chosen | {"seed": asked.config["seed"]} | redacted(overridden(asked))


def overridden(asked: Asked) -> dict[str, Any]:
    """The values that single keys were overridden with, resolved."""
    found = {}
    for override in asked.overrides:
        key, _ = key_and_value(override)
        value: Any = asked.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            found[key] = value
    return found


def write_asked(asked: Asked, directory: Path) -> None:
    """config.yaml, resolved and without secrets, and .hydra/ as Hydra writes it."""
    dump = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
    (directory / "config.yaml").write_text(dump(redacted(asked.config)))
    folder = directory / ".hydra"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(dump(redacted(asked.source)))
    (folder / "hydra.yaml").write_text(redacted_text(dump({"hydra": asked.hydra})))
    (folder / "overrides.yaml").write_text(dump([redacted_text(override) for override in asked.overrides]))


def manifest(run: "Run", asked: Asked, identity: Identity, directory: Path, started: float) -> dict[str, Any]:
    import torch

    from lab.streams import NAMES, stream

    around = surroundings()
    around["command"] = list(map(redacted_text, around["command"]))
    if around["git"]:
        around["git"] = {**around["git"], "diff": redacted_text(around["git"]["diff"])}
    segment = {
        "started": started,
        "host": around["host"],
        "device": run.hardware.device,
        "threads": torch.get_num_threads(),
    }
    before = read_json(directory / "manifest.json", {})
    data = str(asked.config["data"].get("folder", ""))
    return {
        "id": identity.id,
        "config": identity.config,
        "code": identity.code,
        "data": identity.files.get(data),
        "files": identity.files,
        "experiment": asked.experiment,
        "overrides": [redacted_text(override) for override in asked.overrides],
        "choices": {group: option for group, option in asked.choices.items() if not group.startswith("hydra/")},
        "seed": run.seed,
        "seeds": {name: stream(run.seed, name) for name in NAMES},
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "trainable": sum(p.numel() for p in run.trainable),
        "device": run.hardware.device,
        "threads": segment["threads"],
        "started": before.get("started", started),
        "segments": [*before.get("segments", []), segment],
        **redacted(around),
    }


def end_segment(directory: Path) -> None:
    found = read_json(directory / "manifest.json")
    found["segments"][-1]["ended"] = time.time()
    write_json(directory / "manifest.json", found)
