"""Where weights lie: in a file, or in a run of ours. Without torch: what only has to know the file reads none."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

RUN_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.  sealed: the SHA-256 that it had when its run was done; None for any other file."""

    file: Path
    sealed: str | None = None


def find_weights(weights: str) -> WeightsFile | None:
    """The file that `weights` means: itself, or the final weights of a run of ours by its directory or its id (8
    characters, looked for in outputs/ or $LAB_OUTPUTS). None where it is no such thing: a name, or nothing.

    Raises ValueError for a run that is not done.
    """
    path = Path(weights)
    if path.is_file():
        return WeightsFile(path)
    if (path / "status.json").is_file():
        return final_weights(path)
    if RUN_ID.fullmatch(weights):
        outputs = Path(os.environ.get("LAB_OUTPUTS", "outputs"))
        found = sorted(outputs.glob(f"**/*-{weights}/status.json"))
        return final_weights(found[0].parent) if found else None
    return None


def final_weights(directory: Path) -> WeightsFile:
    """The weights that were scored at the run's end: the best ones, or the last."""
    import yaml

    try:
        status = json.loads((directory / "status.json").read_bytes())
        state, sealed = status["state"], status.get("sealed", {})
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"weights={directory}: its status.json is damaged; give a checkpoint of it") from error
    if state != "done":
        raise ValueError(
            f"weights={directory} is a run that is {state}, not done; the command that started it goes on "
            f"with it, or give a checkpoint of it, such as {directory}/checkpoints/last.pt"
        )
    final = yaml.safe_load((directory / "config.yaml").read_text())["final"]
    name = "checkpoints/best.pt"
    if final != "best" or not (directory / name).is_file():  # without a validation set nothing is best
        name = "checkpoints/last.pt"
    if name not in sealed:
        raise ValueError(f"weights={directory}: {name} was not there when the run was done; give a checkpoint's path")
    return WeightsFile(directory / name, sealed[name])
