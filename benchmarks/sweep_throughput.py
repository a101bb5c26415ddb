"""A sweep of 16 small runs (digits MLP, learning rate x seed) by lab, cold and warm, and by what people use instead.

    python benchmarks/sweep_throughput.py [--repeats 3] [--steps 880] [--only WORD]

The peers are a plain Hydra application with a hand-written loop, which writes TensorBoard's scalars, scores each epoch
and saves its weights: under Hydra's basic launcher, under joblib's, and as Ray tasks where ray is installed; and lab
under these launchers and in a shell loop. The ways take turns, each in an empty directory. This prints the medians of
the wall time with their ratios to that of lab, and for lab's sweep the time from the end of one run to the first step
of the next one in the same worker, and what a run of 264 steps costs beyond its training.
"""

import argparse
import importlib.util
import json
import os
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

PLAIN = """
import os, sys
import hydra, torch
from sklearn.datasets import load_digits
from torch.utils.tensorboard import SummaryWriter

def train(lr, seed, steps, folder):
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, val, test = order[:1293], order[1293:1437], order[1437:]
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    writer, step = SummaryWriter(folder), 0

    def score(part):
        with torch.no_grad():
            return (model(x[part]).argmax(1) == y[part]).float().mean().item()

    while step < steps:
        for batch in train[torch.randperm(len(train))][:1280].split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            step += 1
            if step % 20 == 0:
                writer.add_scalar("loss", loss.item(), step)
            if step == steps:
                break
        writer.add_scalar("val/accuracy", score(val), step)
    torch.save(model.state_dict(), os.path.join(folder, "model.pt"))
    writer.close()
    with open(os.path.join(folder, "score.txt"), "w") as file:
        file.write(str(score(test)))

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    torch.set_num_threads(config.threads)
    train(config.lr, config.seed, config.steps, hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)

if __name__ == "__main__":
    main()
"""
CONFIG = "lr: 0.001\nseed: 0\nsteps: 880\nthreads: 1\n"

PLAIN_RAY = """
import os, sys, ray
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def one(lr, seed, steps, folder):
    sys.path.insert(0, folder)
    import torch
    torch.set_num_threads(1)
    from plain import train
    os.makedirs(f"{folder}/{lr}-{seed}")
    train(lr, seed, steps, f"{folder}/{lr}-{seed}")

ray.get([one.remote(float(lr), int(seed), int(sys.argv[2]), sys.argv[1]) for lr in LRS for seed in SEEDS])
""".replace("LRS", repr(LRS)).replace("SEEDS", repr(SEEDS))

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
    parser.add_argument("--steps", type=int, default=880)
    parser.add_argument("--only", default="", help="the ways whose names have this word, and lab")
    options = parser.parse_args()
    common = ["model=mlp", f"steps={options.steps}"]
    ways: dict[str, Callable[[Path], None]] = {
        "lab": lambda folder: run_command([*LAB, *SWEEP, *common], folder),
        "lab, warm": lambda folder: run_command([*LAB, *SWEEP, *common], folder, warm=True),
        "plain app, basic launcher": lambda folder: run_plain(folder, options.steps),
        "plain app, joblib, 2 jobs": lambda folder: run_plain(
            folder, options.steps, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
        ),
        "basic launcher": lambda folder: run_command(
            [*LAB, *SWEEP, *common, "hydra/sweeper=basic", "hydra/launcher=basic"], folder
        ),
        "joblib launcher, 2 jobs": lambda folder: run_command(
            [*LAB, *SWEEP, *common, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], folder
        ),
        "shell loop": lambda folder: run_shell_loop(common, folder),
    }
    if importlib.util.find_spec("ray"):
        ways["plain loop, ray tasks"] = lambda folder: run_plain_ray(folder, options.steps)
        ways["ray tasks"] = lambda folder: run_command([sys.executable, "-c", RAY, str(folder), *common], folder)
    ways = {name: way for name, way in ways.items() if name.startswith("lab") or options.only in name}
    seconds: dict[str, list[float]] = defaultdict(list)
    run_command([*LAB[:-1], "warm"], Path.cwd())
    gaps: list[float] = []
    costs: list[float] = []
    for repeat in range(options.repeats):
        scores = {}
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                way(Path(folder))
                seconds[name].append(time.perf_counter() - started)
                if not name.startswith("plain"):
                    scores[name] = read_scores(Path(folder))
            print(f"{repeat + 1}/{options.repeats} {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            run_command([*LAB, *SWEEP, "model=mlp", "steps=40", "log_every=1"], Path(folder))
            gaps += measure_gaps(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            run_command([*LAB, *SWEEP, "model=mlp", "steps=264"], Path(folder))
            costs += measure_costs(Path(folder), 264)
        for name, by_run in scores.items():
            assert len(by_run) == len(LRS) * len(SEEDS), f"{name} did {len(by_run)} runs"
            if name != "shell loop":  # its processes use all cores, which sums in another order
                assert by_run.keys() == scores["lab"].keys(), name
    base = statistics.median(seconds["lab"])
    for name in ways:
        median = statistics.median(seconds[name])
        print(f"{name:<26} {median:6.1f} s  {median / base:5.2f} of lab")
    print(f"from the end of a run to the first step of the next: median {statistics.median(gaps) * 1000:.0f} ms")
    print(f"a run of 264 steps beyond its training: median {statistics.median(costs):.3f} s")


def run_command(command: list[str], folder: Path, warm: bool = False) -> None:
    environment = {**os.environ, "LAB_WARM": "1" if warm else "0"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{' '.join(command[:6])} ended with {process.returncode}: {process.stderr[-2000:]}")


def run_plain(folder: Path, steps: int, *overrides: str) -> None:
    (folder / "plain.py").write_text(PLAIN)
    (folder / "config.yaml").write_text(CONFIG)
    axes = [f"lr={','.join(LRS)}", f"seed={','.join(SEEDS)}", f"steps={steps}"]
    run_command([sys.executable, "plain.py", "-m", *axes, *overrides], folder)
    assert len(list(folder.glob("multirun/*/*/*/score.txt"))) == len(LRS) * len(SEEDS)


def run_plain_ray(folder: Path, steps: int) -> None:
    (folder / "plain.py").write_text(PLAIN)
    run_command([sys.executable, "-c", PLAIN_RAY, str(folder), str(steps)], folder)
    assert len(list(folder.glob("*/score.txt"))) == len(LRS) * len(SEEDS)


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


def measure_costs(folder: Path, steps: int) -> list[float]:
    """Seconds of each run beside those of its training steps."""
    costs = []
    for path in folder.glob("outputs/runs/**/status.json"):
        status, results = (json.loads(path.with_name(name).read_text()) for name in ("status.json", "results.json"))
        costs.append(status["ended"] - status["started"] - steps / results["hardware/steps_per_s"])
    return costs


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
