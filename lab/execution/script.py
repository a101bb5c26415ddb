"""A run that a script built, without a config: recorded like any other, and known by what it is made of."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lab.errors import Refused
from lab.ledger.saved_run import SavedRun
from lab.nest import iterate_leaves
from lab.record.console import Console
from lab.record.environment import describe_environment
from lab.record.files import lock_directory
from lab.record.record import Record
from lab.record.recording import recording
from lab.record.run_facts import SCHEMAS, describe_run, describe_segments
from lab.record.tensorboard import TensorBoard
from lab.run import Run
from lab.train.loop import execute, train
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.record.record import Progress

PLAIN = (bool, int, float, str, type(None), tuple, list)


def fit_in_directory(
    run: Run, directory: Path, progress: "Progress | None", stop: StopSignal | None
) -> dict[str, float]:
    """Train the run and record it; raises as `lab.fit`."""
    parts = describe_parts(run)
    with lock_directory(directory), progress or Console(run.cadence.steps) as console:
        saved = SavedRun(directory)
        check_same_run(saved, parts)
        if saved.is_done:
            check_sealed(saved)
            console.note(f"{directory} holds this run, done before; its scores are those of then")
            return dict(saved.results)
        environment = describe_environment()
        manifest = {
            "schema": SCHEMAS["manifest.json"],
            "schemas": SCHEMAS,
            "id": hash_json(parts),
            "recipe": hash_json({name: part for name, part in parts.items() if name not in ("seed", "weights")}),
            "experiment": "script",
            "overrides": [],
            "parts": parts,
            **describe_run(run),
            **describe_segments(run, saved.manifest, environment, time.time()),
            **environment,
        }
        stop = stop or StopSignal()
        with recording(directory, manifest, stop) as finish:
            record = Record(directory, console, TensorBoard)
            try:
                results = execute(run, record, train, stop)
            finally:
                record.close()
            finish(results)
    return results


def check_same_run(saved: SavedRun, parts: Mapping[str, Any]) -> None:
    """Raises Refused where the directory holds another run, with what it is made of differently."""
    if not saved.manifest and not (saved.directory / "checkpoints").exists():
        return
    before = saved.manifest.get("parts")
    if before is None:
        raise Refused(f"{saved.directory} holds a run that no script made; give another directory")
    if different := [name for name in {**before, **parts} if before.get(name) != parts.get(name)]:
        shown = "; ".join(f"{name} was {before.get(name)}, is {parts.get(name)}" for name in different)
        raise Refused(f"{saved.directory} holds another run: {shown}; give another directory")


def check_sealed(saved: SavedRun) -> None:
    if changed := saved.changed_files(checkpoints=False):
        raise Refused(f"{saved.directory} is done, but {', '.join(changed)} changed since; move it away")


def describe_parts(run: Run) -> dict[str, Any]:
    """What the run is made of, by name: two runs with the same parts train to the same bits on the same machine.

    Weights and data count by a hash: that of the initial state, and that of the first training batch.
    """
    groups = [
        {key: plain(value) for key, value in group.items() if key != "params"} for group in run.optimizer.param_groups
    ]
    parts: dict[str, Any] = {
        "model": f"{type(run.model).__qualname__} of {sum(p.numel() for p in run.model.parameters())} parameters",
        "weights": hash_tensors(run.model.state_dict()),
        "data": f"{type(run.data).__qualname__} {hash_tensors(next(iter(run.data.batches(0))))}",
        "task": describe_part(run.task),
        "optimizer": f"{type(run.optimizer).__qualname__}",
        "schedule": f"{type(run.schedule).__qualname__}",
        "augment": describe_part(run.augment),
        "regularize": [describe_part(part) for part in run.regularize.parts],
        "clip": describe_part(run.clip),
        "cadence": asdict(run.cadence),
        "seed": run.seed,
        "final": run.final,
        "precision": run.hardware.precision,
        "micro_batch": run.hardware.micro_batch,
    }
    for number, group in enumerate(groups):
        parts |= {
            f"optimizer.{key}" if len(groups) == 1 else f"optimizer.{number}.{key}": v for key, v in group.items()
        }
    return json.loads(json.dumps(parts))  # as the manifest gives it back


def describe_part(part: Any) -> str:
    """A function or an object by its name and its plain settings."""
    if isinstance(part, partial):
        return f"{describe_part(part.func)} {plain(part.keywords)}"
    if not hasattr(part, "__dict__") or callable(part):
        return getattr(part, "__qualname__", type(part).__qualname__)
    settings = {name: value for name, value in vars(part).items() if isinstance(value, PLAIN)}
    return f"{type(part).__qualname__} {plain(settings)}"


def plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | type(None)) else repr(value)


def hash_tensors(nest: Any) -> str:
    """8 characters for the bits of a nest's tensors."""
    total = hashlib.sha256()
    for leaf in iterate_leaves(nest):
        if isinstance(leaf, Tensor):
            total.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(leaf).encode())
    return total.hexdigest()[:8]


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
