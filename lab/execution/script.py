"""A run that a script built, without a config: it is recorded like any other, and a hash of its parts is its id."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import Refused
from lab.ledger.saved_run import SavedRun
from lab.metrics.scores import scores_alone
from lab.record.console import Console
from lab.record.environment import describe_environment
from lab.record.files import lock_directory
from lab.record.record import Record
from lab.record.recording import recording
from lab.record.run_facts import SCHEMAS, describe_run, describe_segments
from lab.record.run_parts import check_same_parts, describe_parts
from lab.record.tensorboard import TensorBoard
from lab.run import Run
from lab.train.loop import execute, train
from lab.train.stop import StopSignal

if TYPE_CHECKING:
    from lab.record.record import Progress


def fit_in_directory(
    run: Run, directory: Path, progress: "Progress | None", stop: StopSignal | None
) -> dict[str, float]:
    """Train the run and record it. Returns and raises as `lab.fit`."""
    parts = describe_parts(run)
    with lock_directory(directory), progress or Console(run.cadence.steps) as console:
        saved = SavedRun(directory)
        check_same_run(saved, parts)
        if saved.is_done:
            console.note(f"{directory} holds this run, done before; these are its saved scores")
            return dict(saved.results)
        stop = stop or StopSignal()
        with recording(directory, build_script_manifest(run, parts, saved), stop) as finish:
            record = Record(directory, console, TensorBoard)
            try:
                results = execute(run, record, train, stop)
            finally:
                record.close()
            finish(results)
    return scores_alone(results)


def check_same_run(saved: SavedRun, parts: Mapping[str, Any]) -> None:
    """Raises Refused where the directory holds another run, or a finished run whose files changed since."""
    if saved.manifest:
        before = saved.manifest.get("parts")
        if before is None:
            raise Refused(f"{saved.directory} holds a run of lab train; give another directory")
        check_same_parts(saved.directory, before, parts)
    if changed := saved.changed_files(checkpoints=False):
        raise Refused(f"{saved.directory} is done, but {', '.join(changed)} changed since; move it away")


def build_script_manifest(run: Run, parts: Mapping[str, Any], saved: SavedRun) -> dict[str, Any]:
    environment = describe_environment()
    recipe = {name: part for name, part in parts.items() if name not in ("seed", "weights", "data")}
    return {
        "schema": SCHEMAS["manifest.json"],
        "schemas": SCHEMAS,
        "id": hash_json(parts),
        "recipe": hash_json(recipe),
        "experiment": "script",
        "overrides": [],
        "parts": parts,
        **describe_run(run),
        **describe_segments(run, saved.manifest, environment, time.time()),
        **environment,
    }


def hash_json(value: Any) -> str:
    """8 characters for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
