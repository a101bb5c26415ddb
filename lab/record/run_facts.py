"""The part of the manifest that is made from the live run and its processes, with a config or without."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lab.distributed.collectives import get_world_size
from lab.finetune.groups import group_rows
from lab.models.origin import origin_of
from lab.record.files import read_json, write_json
from lab.record.status import SCHEMA as STATUS_SCHEMA
from lab.run import Run
from lab.seeding import STREAMS, stream_seed

# the version of each file's format in a run directory; readers accept all versions
SCHEMAS = {
    "manifest.json": 1,
    "status.json": STATUS_SCHEMA,
    "config.yaml": 1,
    "metrics.jsonl": 1,
    "results.json": 1,
    "checkpoints": 1,
}
SEGMENT_FACTS = ("device", "processes", "threads", "torch", "cpu")  # facts on which the last bits of results depend


def describe_run(run: Run) -> dict[str, Any]:
    """The seed and the seeds of its streams, the numbers of parameters, the strategy's groups, and the origin of the
    weights."""
    total = sum(p.numel() for p in run.model.parameters())
    origin = origin_of(run.model)
    return {
        "seed": run.seed,
        "seeds": {name: stream_seed(run.seed, name) for name in STREAMS},
        "parameters": total,
        "trainable": sum(p.numel() for p in run.trainable),
        "groups": group_rows(run.optimizer.param_groups, total),
        "weights": origin.summarize() if origin else None,
    }


def describe_segments(
    run: Run, earlier: Mapping[str, Any], environment: Mapping[str, Any], started: float
) -> dict[str, Any]:
    """The run's segments, one for each process that trained it, of which this is the last; and `exact`, whether the run
    will end in the same bits as an unbroken one, with the reasons against it in `inexact`. `same_bits_on` are the facts
    of the machine on which the same run ends in the same bits; they are no part of its id.

    earlier: manifest of the previous segment; empty for a new run.  started: start of this segment, in seconds since
    the epoch.
    """
    before = earlier.get("segments", [])
    segment = {
        "started": started,
        "host": environment["host"],
        "device": describe_device(run.hardware.device),
        "processes": get_world_size(),
        "threads": torch.get_num_threads(),
        "torch": environment["packages"].get("torch"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    reason = why_inexact(run, before[-1], segment) if before else None
    return {
        "device": segment["device"],
        "processes": segment["processes"],
        "threads": segment["threads"],
        "same_bits_on": {name: segment[name] for name in SEGMENT_FACTS},
        "started": earlier.get("started", started),
        "segments": [*before, segment],
        **exactness(earlier, reason),
    }


def why_inexact(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The reasons why a resumed run will not end in the same bits, from its last two segments; None where there are
    none."""
    reasons = [f"{name} {before.get(name)} then {now[name]}" for name in SEGMENT_FACTS if before.get(name) != now[name]]
    if run.hardware.device != "cpu" and not run.hardware.deterministic:
        reasons.append(f"resumed on {run.hardware.device} without hardware.deterministic=true")
    if get_world_size() > 2:  # the sum of two gradients does not depend on which comes first
        reasons.append(
            f"resumed with {get_world_size()} processes, whose gradients add up in another order in a first step"
        )
    return "; ".join(reasons) or None


def describe_device(device: str) -> str:
    """The device with the name of its model, where torch knows it."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


def exactness(earlier: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    reasons = [*earlier.get("inexact", []), *([reason] if reason else [])]
    return {"exact": not reasons, "inexact": reasons}


def mark_inexact(directory: Path, reason: str) -> None:
    """Add to the manifest a reason why the run will not end in the same bits as an unbroken one."""
    manifest = read_json(directory / "manifest.json")
    write_json(directory / "manifest.json", {**manifest, **exactness(manifest, reason)})
