"""The parts of a run that a script built: two runs with the same parts train to the same bits."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.errors import Refused
from lab.nest import iterate_leaves
from lab.record.files import read_json, write_json
from lab.run import Run

PARTS_FILE = "parts.json"
PLAIN = (bool, int, float, str, type(None))
SCHEDULE_POINTS = 16  # steps at which the learning rate of a schedule is compared


def describe_parts(run: Run) -> dict[str, Any]:
    """The run's parts by name, as values that JSON can hold. Weights are a hash of the initial state dict, data a hash
    of the first training batch."""
    groups = run.optimizer.param_groups
    parts: dict[str, Any] = {
        "model": f"{type(run.model).__qualname__} of {sum(p.numel() for p in run.model.parameters())} parameters",
        "weights": hash_tensors(run.model.state_dict()),
        "data": f"{type(run.data).__qualname__} {hash_tensors(next(iter(run.data.batches(0))))}",
        "task": describe_part(run.task),
        "optimizer": type(run.optimizer).__qualname__,
        "schedule": describe_schedule(run),
        "augment": describe_part(run.augment),
        "regularize": [describe_part(part) for part in run.regularize.parts],
        "clip": describe_part(run.clip),
        "cadence": {name: value for name, value in asdict(run.cadence).items() if name != "save_pause"},
        "seed": run.seed,
        "final": run.final,
        "precision": run.hardware.precision,
        "micro_batch": run.hardware.micro_batch,
    }
    for number, group in enumerate(groups):
        prefix = "optimizer" if len(groups) == 1 else f"optimizer.{number}"
        parts |= {f"{prefix}.{key}": make_plain(value) for key, value in group.items() if key != "params"}
    return json.loads(json.dumps(parts))


def check_same_parts(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises Refused where the run in the directory has other parts, and names the parts that differ."""
    if different := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        changes = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in different)
        raise Refused(f"{directory} holds another run: {changes}; give another directory")


def check_or_write_parts(directory: Path, run: Run) -> None:
    """For a record without a manifest: write parts.json, or compare the run's parts with an existing one. Raises
    Refused as `check_same_parts`."""
    parts = describe_parts(run)
    if before := read_json(directory / PARTS_FILE):
        check_same_parts(directory, before, parts)
    else:
        write_json(directory / PARTS_FILE, parts)


def describe_part(part: Any) -> str:
    """A function or an object as text: its name, and its settings that are plain values."""
    if isinstance(part, partial):
        return f"{describe_part(part.func)} {make_plain(part.keywords)}"
    if closure := getattr(part, "__closure__", None):
        settings = [cell.cell_contents for cell in closure if isinstance(cell.cell_contents, PLAIN)]
        return f"{part.__qualname__} {settings}"
    if callable(part) or not hasattr(part, "__dict__"):
        return getattr(part, "__qualname__", type(part).__qualname__)
    settings = {name: value for name, value in vars(part).items() if isinstance(value, (*PLAIN, list, tuple))}
    return f"{type(part).__qualname__} {settings}"


def describe_schedule(run: Run) -> str:
    """A schedule as text: its name, its plain state and, if it has a function `multiplier`, SCHEDULE_POINTS of its
    values."""
    name = type(run.schedule).__qualname__
    state = {key: value for key, value in run.schedule.state_dict().items() if isinstance(value, (*PLAIN, list))}
    multiplier = getattr(run.schedule, "multiplier", None)
    if multiplier is None:
        return f"{name} {state}"
    steps = [run.cadence.steps * n // SCHEDULE_POINTS for n in range(SCHEDULE_POINTS)]
    return f"{name} {state} {[round(multiplier(step), 6) for step in steps]}"


def make_plain(value: Any) -> Any:
    """A plain value itself; anything else as its repr."""
    return value if isinstance(value, PLAIN) else repr(value)


def hash_tensors(nest: Any) -> str:
    """8 characters that depend on every bit of a nest's tensors, and on the repr of its other leaves."""
    total = hashlib.sha256()
    for leaf in iterate_leaves(nest):
        if isinstance(leaf, Tensor):
            total.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(leaf).encode())
    return total.hexdigest()[:8]
