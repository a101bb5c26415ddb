"""lab check: whether a config, or a sweep's, will run, without starting it; with --resume, whether exactly."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab.hydra_app.app import run_app as hydra_app
from lab.record.files import read_json

COMPARED_STEPS = 12  # of the runs that are compared


def main(arguments: list[str]) -> int:
    if "--resume" in arguments:
        return check_exact_resume([argument for argument in arguments if argument != "--resume"])
    return hydra_app(arguments, "check")


def check_exact_resume(arguments: list[str]) -> int:
    """Train a few steps of the config unbroken, and again killed half-way and resumed; compare every bit of the two.

    0 where they are the same, 1 where they are not, with what differs.
    """
    with tempfile.TemporaryDirectory(prefix="lab-check-") as folder:
        short = [f"steps={COMPARED_STEPS}", "save_every=1", f"eval_every={COMPARED_STEPS // 2}", "log_every=1"]
        command = [sys.executable, "-m", "lab", "train", *arguments, *short]
        unbroken, broken = Path(folder) / "unbroken", Path(folder) / "broken"
        ended = subprocess.run([*command, f"hydra.run.dir='{unbroken}'"], capture_output=True, text=True, check=False)
        if ended.returncode:
            print(ended.stderr, end="", file=sys.stderr)
            return ended.returncode
        again = [*command, f"hydra.run.dir='{broken}'"]
        killed_at = run_and_kill(again, broken)
        ended = subprocess.run(again, capture_output=True, text=True, check=False)
        if ended.returncode:
            print(ended.stderr, end="", file=sys.stderr)
            return ended.returncode
        found = compare_runs(unbroken, broken)
        manifest = read_json(broken / "manifest.json", {})
    if len(manifest.get("segments", [])) < 2:
        print("lab: the run ended before it could be killed; give a longer one", file=sys.stderr)
        return 1
    for line in found or manifest.get("inexact", []):
        print(f"lab: {line}", file=sys.stderr)
    if found:
        print(f"a run killed at step {killed_at} of {COMPARED_STEPS} does not end as an unbroken one")
        return 1
    print(
        f"exact: a run killed at step {killed_at} of {COMPARED_STEPS} and resumed ends in the same bits as an unbroken one"
    )
    return 0


def run_and_kill(command: list[str], run: Path) -> int:
    """Start the command, and kill it with SIGKILL once it is half-way. The last step of which it tells."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and logged_steps(run) < COMPARED_STEPS // 2:
        time.sleep(0.001)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return logged_steps(run)


def logged_steps(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text().count('"train/loss"')
    except OSError:
        return 0


def compare_runs(a: Path, b: Path) -> list[str]:
    """What is not the same in the metrics, the scores and every tensor of the last checkpoints."""
    import torch

    from lab.record.checkpoints import load_checkpoint

    found = []
    for name in ("metrics.jsonl", "results.json"):
        left, right = (comparable_lines(run / name) for run in (a, b))
        found += [f"{name}: {one} then {other}" for one, other in zip(left, right, strict=False) if one != other][:3]
        if len(left) != len(right):
            found.append(f"{name} has {len(left)} lines, then {len(right)}")
    left, right = (flatten_leaves(load_checkpoint(run / "checkpoints" / "last.pt")) for run in (a, b))
    for name in {**left, **right}:
        one, other = left.get(name), right.get(name)
        both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        if not (torch.equal(one, other) if both else one == other):  # type: ignore[arg-type]
            found.append(f"checkpoint: {name} is not the same")
    return found


def comparable_lines(path: Path) -> list[str]:
    """Without those of what the steps cost, which no two runs share."""
    return [line for line in path.read_text().splitlines() if '"hardware/' not in line]


def flatten_leaves(value: object, name: str = "") -> dict[str, object]:
    """The leaves of a nest of dicts, lists and tuples by their dotted paths."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in pairs for path, leaf in flatten_leaves(part, f"{name}.{key}").items()}
    return {name.removeprefix("."): value}
