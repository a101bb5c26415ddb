"""lab check: whether a config or a sweep will run, without starting it; with --resume, whether a run that is killed and
resumed ends in the same bits."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab.cli.run_search import try_search
from lab.cli.run_sweep import try_sweep
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner
from lab.ledger.saved_run import SavedRun

COMPARED_STEPS = 12


def main(arguments: list[str]) -> int:
    if "--resume" in arguments:
        return check_exact_resume([argument for argument in arguments if argument != "--resume"])
    return run_app(arguments, HydraApp("check", run=None, sweep=check_arguments))


def check_arguments(planner: SweepPlanner, arguments: Sequence[str]) -> int:
    if planner.search_node:
        return try_search(planner, arguments)
    return try_sweep(planner.plan(planner.expand(arguments)), planner.launcher_options)


def check_exact_resume(arguments: list[str]) -> int:
    """Train a few steps of the config twice, once unbroken, once killed half-way and resumed, and compare every bit.

    Prints the differences. Gives the exit code: 0 where there are none, 1 where there are some, and that of `lab train`
    where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="lab-check-") as folder:
        short = [f"steps={COMPARED_STEPS}", "save_every=1", f"eval_every={COMPARED_STEPS // 2}", "log_every=1"]
        command = [sys.executable, "-m", "lab", "train", *arguments, *short]
        unbroken, broken = Path(folder) / "unbroken", Path(folder) / "broken"
        train_unbroken = [*command, f"hydra.run.dir='{unbroken}'"]
        train_broken = [*command, f"hydra.run.dir='{broken}'"]
        if code := run_quietly(train_unbroken):
            return code
        killed_at = run_and_kill(train_broken, broken)
        if code := run_quietly(train_broken):
            return code
        differences = compare_runs(unbroken, broken)
        manifest = SavedRun(broken).manifest
    if len(manifest.get("segments", [])) < 2:
        print("lab: the run ended before it could be killed; give a longer one", file=sys.stderr)
        return 1
    for line in differences or manifest.get("inexact", []):
        print(f"lab: {line}", file=sys.stderr)
    if differences:
        print(f"a run killed at step {killed_at} of {COMPARED_STEPS} does not end as an unbroken one")
        return 1
    print(
        f"exact: a run killed at step {killed_at} of {COMPARED_STEPS} and resumed ends in the same bits as an unbroken "
        "one"
    )
    return 0


def run_quietly(command: list[str]) -> int:
    """Run the command, and print its standard error only where it fails. Gives its exit code."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        print(process.stderr, end="", file=sys.stderr)
    return process.returncode


def run_and_kill(command: list[str], run: Path) -> int:
    """Start the command and kill it with SIGKILL once it is half-way. Gives the number of steps that it logged."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and logged_steps(run) < COMPARED_STEPS // 2:
        time.sleep(0.001)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return logged_steps(run)


def logged_steps(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text(encoding="utf-8").count('"train/loss"')
    except OSError:
        return 0


def compare_runs(a: Path, b: Path) -> list[str]:
    """The differences in the metrics, the scores, and the tensors and values of the last checkpoints, a line each; of
    each file of lines the first 3."""
    import torch

    from lab.record.checkpoints import load_checkpoint

    differences = []
    for name in ("metrics.jsonl", "results.json"):
        left, right = (comparable_lines(run / name) for run in (a, b))
        pairs = zip(left, right, strict=False)
        differences += [f"{name}: {before} then {after}" for before, after in pairs if before != after][:3]
        if len(left) != len(right):
            differences.append(f"{name} has {len(left)} lines, then {len(right)}")
    left, right = (flatten_state(load_checkpoint(run / "checkpoints" / "last.pt")) for run in (a, b))
    for name in {**left, **right}:
        before, after = left.get(name), right.get(name)
        if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
            same = torch.equal(before, after)
        else:
            same = before == after
        if not same:
            differences.append(f"checkpoint: {name} is not the same")
    return differences


def comparable_lines(path: Path) -> list[str]:
    """The lines of a file without those of `hardware/` metrics: no two runs take the same time."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if '"hardware/' not in line]


def flatten_state(value: object, name: str = "") -> dict[str, object]:
    """The leaves of a nest of dicts, lists and tuples by their dotted paths."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in pairs for path, leaf in flatten_state(part, f"{name}.{key}").items()}
    return {name.removeprefix("."): value}
