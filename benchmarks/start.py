"""What one waits for before a command does its work, cold and with `lab warm`, in turns.

    python benchmarks/start.py [--repeats 5]

Beside `python -c "import torch, torch._dynamo"`, which any training by torch's optimizers imports, this times whole
short commands, and from the start of a sweep to the start of its first run. `lab plan` tries its jobs, too: one batch
through the model that they share. It prints medians, and the medians of their ratios to the import of the same turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

LAB = [sys.executable, "-m", "lab"]
RUN = ["train", "model=mlp", "steps=3"]
SWEEP = ["train", "-m", "model=mlp", "steps=3", "seed=0,1"]


def seconds(command: list[str], **variables: str) -> float:
    """Seconds that a command takes in an empty directory."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run(command, folder, variables)
        return time.perf_counter() - began


def seconds_to_first_run(**variables: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        run([*LAB, *SWEEP], folder, variables)
        manifests = Path(folder).glob("outputs/runs/*/*/manifest.json")
        return min(json.loads(path.read_text())["started"] for path in manifests) - began


def run(command: list[str], folder: str, variables: dict[str, str]) -> None:
    environment = {**os.environ, "LAB_WARM": "0", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    base = "import torch, torch._dynamo"
    tab = {"COMP_LINE": "lab train optimizer.l"}
    ways: dict[str, Callable[[], float]] = {
        base: lambda: seconds([sys.executable, "-c", base]),
        "a run of 3 steps": lambda: seconds([*LAB, *RUN]),
        "the same, warm": lambda: seconds([*LAB, *RUN], LAB_WARM="1"),
        "first run of a sweep": seconds_to_first_run,
        "the same, warm ": lambda: seconds_to_first_run(LAB_WARM="1"),
        "a plan of 16 jobs": lambda: seconds([*LAB, "plan", "-m", "model=mlp", "seed=range(16)"]),
        "lab train --help": lambda: seconds([*LAB, "train", "--help"]),
        "lab train --cfg job": lambda: seconds([*LAB, "train", "--cfg", "job"]),
        "a Tab": lambda: seconds([*LAB, "-sc", "query=bash"], **tab),
    }
    run([*LAB, "warm"], ".", {})
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        for name, way in ways.items():
            times[name].append(way())
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, times[base], strict=True))
        print(f"{name:<28} {statistics.median(own):6.2f} s  {ratio:5.2f} of the import")


if __name__ == "__main__":
    main()
