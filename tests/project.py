"""A copy of the project tests/apps/mishaps, commands given in it, and what its runs come to."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.conftest import ROOT, scores
from tests.processes import TIMEOUT, Ended, finish, start_lab

SHORT = "experiment=mishaps/short"
SLOW = "data.pause=0.03"  # long enough for a test to see a run under way
SEEDS = ("train", "-m", SHORT, "seed=0,1,2", "hydra.launcher.workers=2")
PATIENCE = 60


class Project:
    """The copy; each command given in it is a session of processes of its own.

    new: start new interpreters, see `start_lab`.
    """

    def __init__(self, root: Path, new: bool = False):
        self.root = Path(shutil.copytree(ROOT / "tests" / "apps" / "mishaps", root))
        self.new = new
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = start_lab(*arguments, cwd=self.root, new=self.new, env=env, start_new_session=True)
        self.started.append(process)
        return process

    def lab(self, *arguments: str, **env: str) -> Ended:
        return finish(self.start(*arguments, **env))

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob("**/outputs/runs/**/manifest.json"))

    def sweep(self) -> Path:
        (directory,) = self.root.glob("**/outputs/sweeps/*")
        return directory

    def states(self, key: str = "seed") -> dict[Any, dict[str, Any]]:
        """status.json of each run, by a key of its data's config."""
        return {config(run)["data"][key]: read(run / "status.json") for run in self.runs()}

    def await_steps(self, steps: int, runs: int = 1) -> list[Path]:
        """The runs under way, once so many of them have taken so many steps."""

        def under_way() -> list[Path]:
            reached = [run for run in self.runs() if has_reached(run, steps)]
            return reached if len(reached) >= runs else []

        return wait_for(under_way)

    def end(self) -> None:
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=TIMEOUT)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def config(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def last_step(run: Path) -> int:
    return max(json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines())


def has_reached(run: Path, steps: int) -> bool:
    """Whether the run is under way and has taken so many steps."""
    metrics = run / "metrics.jsonl"
    under_way = (run / "status.json").exists() and read(run / "status.json")["state"] == "running"
    return under_way and metrics.exists() and metrics.read_text().count("train/loss") >= steps


def wait_for(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What the condition gives once that is true."""
    until = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)
    return value


def frozen(value: Any) -> Any:
    """The same nest, tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: frozen(part) for key, part in value.items()}
    return [frozen(part) for part in value] if isinstance(value, list | tuple) else value


def bits(run: Path) -> dict[str, Any]:
    """All that a run comes to."""
    states = {name: torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True) for name in ("last", "best")}
    text = (run / "metrics.jsonl").read_text()
    return {"metrics.jsonl": text, "results.json": scores(read(run / "results.json")), **frozen(states)}


def by_seed(runs: Sequence[Path]) -> dict[int, dict[str, Any]]:
    """The bits of each run by its seed, of which no two have the same."""
    results = {read(run / "manifest.json")["seed"]: bits(run) for run in runs}
    assert len(results) == len(runs)
    return results


def assert_unharmed(project: Project, unbroken: dict[int, dict[str, Any]], runs: int = 3) -> None:
    """Every run done, once, exactly, as if nothing had happened, and nothing torn left behind."""
    directories = project.runs()
    assert len(directories) == runs
    for run in directories:
        manifest = read(run / "manifest.json")
        assert read(run / "status.json")["state"] == "done", run
        assert manifest["exact"], manifest["inexact"]
        assert bits(run) == unbroken[manifest["seed"]], run
        assert not [path for path in run.rglob(".*.*") if path.suffix[1:].isdigit()]
        assert not (run / "error.txt").exists()
