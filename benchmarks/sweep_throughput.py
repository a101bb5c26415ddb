"""A sweep of 16 small runs (digits MLP, learning rate x seed) by lab's pool, by other launchers and by a shell loop.

    python benchmarks/sweep_throughput.py [--repeats 3] [--steps 200]

The ways take turns, each in an empty directory, and train the same runs to the same results. This prints the medians of
the wall time with their ratios to that of lab, and for lab's sweep the time from the end of one run to the first step
of the next one in the same worker. Ray tasks are measured if ray is installed; they run lab's loop in processes that
stay alive.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

LRS = ("0.001", "0.003", "0.01", "0.03")
SEEDS = ("0", "1", "2", "3")
LAB = [sys.executable, "-m", "lab", "train"]
SWEEP = ["-m", f"optimizer.lr={','.join(LRS)}", f"seed={','.join(SEEDS)}"]

RAY = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def one(arguments, folder):
    import os, torch
    os.chdir(folder)
    torch.set_num_threads(1)
    from lab.cli.train import main
    return main(arguments)

jobs = [[*sys.argv[2:], f"optimizer.lr={lr}", f"seed={seed}"] for lr in LRS for seed in SEEDS]
assert not any(ray.get([one.remote(job, sys.argv[1]) for job in jobs]))
""".replace("LRS", repr(LRS)).replace("SEEDS", repr(SEEDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    common = ["model=mlp", f"steps={options.steps}", "log_every=1"]
    ways: dict[str, Callable[[Path], None]] = {
        "lab": lambda folder: run_command([*LAB, *SWEEP, *common], folder),
        "basic launcher": lambda folder: run_command(
            [*LAB, *SWEEP, *common, "hydra/sweeper=basic", "hydra/launcher=basic"], folder
        ),
        "joblib launcher, 2 jobs": lambda folder: run_command(
            [*LAB, *SWEEP, *common, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], folder
        ),
        "shell loop": lambda folder: run_shell_loop(common, folder),
    }
    if importlib.util.find_spec("ray"):
        ways["ray tasks"] = lambda folder: run_command([sys.executable, "-c", RAY, str(folder), *common], folder)
    seconds: dict[str, list[float]] = defaultdict(list)
    gaps: list[float] = []
    for repeat in range(options.repeats):
        scores = {}
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                way(Path(folder))
                seconds[name].append(time.perf_counter() - started)
                scores[name] = read_scores(Path(folder))
                if name == "lab":
                    gaps += measure_gaps(Path(folder))
            print(f"{repeat + 1}/{options.repeats} {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
        for name, by_run in scores.items():
            assert len(by_run) == len(LRS) * len(SEEDS), f"{name} did {len(by_run)} runs"
            if name != "shell loop":  # its processes use all cores, which sums in another order
                assert by_run.keys() == scores["lab"].keys(), name
    base = statistics.median(seconds["lab"])
    for name in ways:
        median = statistics.median(seconds[name])
        print(f"{name:<24} {median:6.1f} s  {median / base:5.2f} of lab")
    print(f"from the end of a run to the first step of the next: median {statistics.median(gaps) * 1000:.0f} ms")


def run_command(command: list[str], folder: Path) -> None:
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{' '.join(command[:6])} ended with {process.returncode}: {process.stderr[-2000:]}")


def run_shell_loop(common: list[str], folder: Path) -> None:
    for lr in LRS:
        for seed in SEEDS:
            run_command([*LAB, *common, f"optimizer.lr={lr}", f"seed={seed}"], folder)


def read_scores(folder: Path) -> dict[str, float]:
    """The test/accuracy of each run, by the id of the run."""
    return {
        path.parent.name[-8:]: json.loads(path.read_text())["test/accuracy"]
        for path in folder.glob("outputs/runs/**/results.json")
    }


def measure_gaps(folder: Path) -> list[float]:
    """Seconds from the end of each run to the first step of the next one in the same worker."""
    from lab.record.tensorboard import read_events

    by_worker: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for path in folder.glob("outputs/runs/**/status.json"):
        status = json.loads(path.read_text())
        events = [
            event for file in path.parent.glob("events.out*") for _, event in read_events(file) if event.step == 1
        ]
        by_worker[status["pid"]].append((events[0].wall_time, status["ended"]))
    gaps = []
    for runs in by_worker.values():
        runs.sort()
        gaps += [first - ended for (_, ended), (first, _) in pairwise(runs)]
    return gaps


if __name__ == "__main__":
    main()
