"""`lab ls` of many runs, the first time and again, beside a loop that reads two files of each run; and long plans.

    python benchmarks/many_runs.py [--runs 10000] [--jobs 5000] [--repeats 3]

The runs are copies of one of three steps, without its checkpoints. The plans are `lab plan -m` of that many jobs, with
a value of lr for each five of them and with one for each job; their peer is what training imports. All take turns. This
prints medians in seconds, and the medians of the ratios of the turns.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

LAB = [sys.executable, "-m", "lab"]
READ = """
import json, pathlib
for path in sorted(pathlib.Path("outputs").rglob("status.json")):
    json.loads(path.read_text()), json.loads((path.parent / "manifest.json").read_text())
"""


def seconds(command: list[str], folder: Path, **variables: str) -> float:
    environment = {**os.environ, "LAB_WARM": "0", "LAB_CACHE": str(folder / "cache"), **variables}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")
    return time.perf_counter() - began


def make_runs(folder: Path, count: int) -> None:
    seconds([*LAB, "train", "model=mlp", "steps=3"], folder)
    (run,) = (path.parent for path in folder.glob("outputs/runs/*/*/status.json"))
    shutil.rmtree(run / "checkpoints")
    for number in range(count - 1):
        shutil.copytree(run, run.with_name(f"copy-{number:08x}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder, options.runs)

        def list_first() -> float:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return seconds([*LAB, "ls"], folder)

        def plan(*axes: str) -> float:
            return seconds([*LAB, "plan", "-m", "model=mlp", *axes, "paths.outputs=planned"], folder)

        fifth = options.jobs // 5
        reading, importing = f"reading {options.runs} runs", "import torch, torch._dynamo"
        ways: dict[str, tuple[str, Callable[[], float]]] = {
            reading: (reading, lambda: seconds([sys.executable, "-c", READ], folder)),
            "lab ls, the first time": (reading, list_first),
            "lab ls, again": (reading, lambda: seconds([*LAB, "ls"], folder)),
            importing: (importing, lambda: seconds([sys.executable, "-c", importing], folder)),
            f"a plan of {fifth} x 5": (importing, lambda: plan(f"optimizer.lr=range(1,{fifth + 1})", "seed=range(5)")),
            f"a plan of {options.jobs} x 1": (importing, lambda: plan(f"optimizer.lr=range(1.5,{options.jobs + 1})")),
        }
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.repeats):
            for name, (_, way) in ways.items():
                times[name].append(way())
    for name, (base, _) in ways.items():
        ratio = statistics.median(own / other for own, other in zip(times[name], times[base], strict=True))
        print(f"{name:<28} {statistics.median(times[name]):6.2f} s  {ratio:5.2f} of {base}")


if __name__ == "__main__":
    main()
