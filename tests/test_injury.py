"""What no run and no sweep may be harmed by: real processes that are killed, stopped, starved and lied to.

After each injury the same command ends with every run done once, in the bits of a sweep that nothing happened to.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Ended

SHORT = "experiment=mishaps/short"
SLOW = "data.pause=0.03"  # long enough for a test to see a run under way
SEEDS = ("train", "-m", SHORT, "seed=0,1,2", "hydra.launcher.workers=2")
PATIENCE = 60


class Project:
    """A copy of the project, and commands given in it, each a session of processes of its own."""

    def __init__(self, root: Path):
        self.root = Path(shutil.copytree(ROOT / "tests" / "apps" / "mishaps", root))
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab", *arguments],
            cwd=self.root,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def lab(self, *arguments: str, **env: str) -> Ended:
        return ended(self.start(*arguments, **env))

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob("**/outputs/runs/**/manifest.json"))

    def sweep(self) -> Path:
        (found,) = self.root.glob("**/outputs/sweeps/*")
        return found

    def states(self, key: str = "seed") -> dict[Any, dict[str, Any]]:
        """status.json of each run, by a key of its data's config."""
        return {config(run)["data"][key]: read(run / "status.json") for run in self.runs()}

    def await_steps(self, steps: int, runs: int = 1) -> list[Path]:
        """The runs under way, once so many of them have taken so many steps."""
        return wait_for(lambda: found if len(found := list(filter(beyond(steps), self.runs()))) >= runs else None)

    def end(self) -> None:
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=2 * PATIENCE)
    return Ended(process.returncode, out, err)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def config(run: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((run / "config.yaml").read_text())


def beyond(steps: int) -> Callable[[Path], bool]:
    def reached(run: Path) -> bool:
        metrics = run / "metrics.jsonl"
        under_way = (run / "status.json").exists() and read(run / "status.json")["state"] == "running"
        return under_way and metrics.exists() and metrics.read_text().count("train/loss") >= steps

    return reached


def wait_for(found: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE
    while not (seen := found()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)
    return seen


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
    texts = {name: (run / name).read_text() for name in ("metrics.jsonl", "results.json")}
    return {**texts, **frozen(states)}


def by_seed(runs: Sequence[Path]) -> dict[int, dict[str, Any]]:
    found = {read(run / "manifest.json")["seed"]: bits(run) for run in runs}
    assert len(found) == len(runs)
    return found


def assert_unharmed(project: Project, unbroken: dict[int, dict[str, Any]], runs: int = 3) -> None:
    """Every run done, once, exactly, as if nothing had happened, and nothing torn left behind."""
    found = project.runs()
    assert len(found) == runs
    for run in found:
        manifest = read(run / "manifest.json")
        assert read(run / "status.json")["state"] == "done", run
        assert manifest["exact"], manifest["inexact"]
        assert bits(run) == unbroken[manifest["seed"]], run
        assert not [path for path in run.rglob(".*.*") if path.suffix[1:].isdigit()]
        assert not (run / "error.txt").exists() or read(run / "status.json")["state"] == "done"


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    made = Project(tmp_path / "project")
    yield made
    made.end()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What seeds 0, 1 and 2 come to when nothing happens, each in a new process."""
    made = Project(tmp_path_factory.mktemp("unbroken") / "project")
    done = made.lab(*SEEDS, "hydra.launcher.isolation=process")
    assert done.code == 0, done.err
    return by_seed(made.runs())


# whole sweeps


@pytest.mark.parametrize("who", ["everyone", "the supervisor", "a worker"])
def test_the_same_command_ends_what_a_kill_broke_off(who, project, unbroken):
    process = project.start(*SEEDS, SLOW)
    run = project.await_steps(5, runs=2)[0]
    if who == "everyone":
        os.killpg(process.pid, signal.SIGKILL)
        ended(process)
    elif who == "the supervisor":
        process.kill()
        ended(process)
    else:
        os.kill(read(run / "status.json")["pid"], signal.SIGKILL)
        done = ended(process)
        assert done.code == 1
        failed = [status for status in project.states().values() if status["state"] == "failed"]
        assert len(project.runs()) == 3, "the others go on"
        assert len(failed) == 1
        assert "killed by SIGKILL" in failed[0]["error"]
    done = project.lab(*SEEDS, SLOW)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_killed_again_and_again_at_any_time_it_comes_to_the_same(project, unbroken):
    moments = random.Random(0)
    for _ in range(4):
        process = project.start(*SEEDS, SLOW)
        time.sleep(moments.uniform(1, 6))
        os.killpg(process.pid, signal.SIGKILL)
        ended(process)
    done = project.lab(*SEEDS, SLOW)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_two_commands_at_once_share_the_work(project, unbroken):
    both = [project.start(*SEEDS, SLOW) for _ in range(2)]
    for done in map(ended, both):
        assert done.code == 0, done.err
    assert_unharmed(project, unbroken)
    assert [len(read(run / "manifest.json")["segments"]) for run in project.runs()] == [1, 1, 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_sweep_that_is_asked_to_stop_saves_and_is_resumed(number, code, project, unbroken):
    process = project.start(*SEEDS, SLOW)
    project.await_steps(5, runs=2)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # the keyboard's goes to the whole group
    stopped = ended(process)
    assert stopped.code == code, stopped.err
    assert {status["state"] for status in project.states().values()} <= {"interrupted", "done"}
    lost = [run for run in project.runs() if (run / "status.json").exists() and beyond(1)(run)]
    assert not lost
    done = project.lab("resume", str(project.sweep()), "--workers", "2")
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_a_time_limit_stops_the_sweep_and_the_same_command_goes_on(project, unbroken):
    stopped = project.lab(*SEEDS, "data.pause=0.2", "time_limit=2")
    assert stopped.code == 75, stopped.err
    assert "time_limit reached" in stopped.err
    done = project.lab(*SEEDS, "data.pause=0.2")
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_a_process_that_was_put_to_sleep_goes_on_when_woken(project, unbroken):
    process = project.start(*SEEDS, SLOW)
    project.await_steps(5)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGCONT)
    done = ended(process)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


# bad runs

INSIDE = {
    "error": "RuntimeError: a mishap of the run's own",
    "leave": "SystemExit: 0",
    "diverge": "train/loss is nan",
}
OUTSIDE = {
    "abort": "crashed: Aborted",
    "segfault": "crashed: Segmentation fault",
    "kill": "killed by SIGKILL",
    "hang": "hung: a step did not end in 2 s",
    "memory": "out of memory: lower data.batch_size",
}


def test_a_bad_run_harms_no_other_and_is_taken_again_when_that_may_help(project, unbroken):
    mishaps = ",".join(["none", *INSIDE, *OUTSIDE, "talk"])
    command = ("train", "-m", SHORT, f"data.mishap={mishaps}", "data.once=fell", "step_timeout=2")
    command += ("hydra.launcher.workers=2",)
    first = project.lab(*command)
    assert first.code == 1, first.err
    states = project.states("mishap")
    for mishap, said in (INSIDE | OUTSIDE).items():
        status = states.pop(mishap)
        assert status["state"] == ("diverged" if mishap == "diverge" else "failed"), mishap
        assert said in status["error"], mishap
        assert said in first.err, mishap
        assert bool(status["outside"]) == (mishap in OUTSIDE), mishap
    assert {status["state"] for status in states.values()} == {"done"}
    assert set(states) == {"none", "talk"}
    for run in project.runs():
        mishap = config(run)["data"]["mishap"]
        if mishap in INSIDE or mishap == "memory":
            assert "Traceback (most recent call last)" in (run / "error.txt").read_text()
        elif mishap in ("abort", "segfault", "hang"):
            assert "mishaps.py" in (run / "error.txt").read_text(), mishap
        elif mishap == "kill":
            assert "SIGKILL" in (run / "error.txt").read_text()
        elif mishap == "talk":
            said = (run / "output.txt").read_text()
            assert said.count("talk 19999") == 2
            assert "from a child" in said
    assert "talk 19999" not in first.out + first.err

    second = project.lab(*command)  # what came from outside is taken again, and nothing else
    assert second.code == 1, second.err
    states = project.states("mishap")
    assert {mishap for mishap, status in states.items() if status["state"] != "done"} == set(INSIDE)
    segments = {config(run)["data"]["mishap"]: len(read(run / "manifest.json")["segments"]) for run in project.runs()}
    assert segments == {m: 2 if m in OUTSIDE else 1 for m in segments}

    third = project.lab("retry", str(project.sweep()), "--workers", "2")
    assert third.code == 0, third.err
    for run in project.runs():
        assert read(run / "status.json")["state"] == "done"
        assert bits(run) == unbroken[0], run
        assert not (run / "error.txt").exists(), run


def test_policies_stop_or_retry(project):
    bad = (*SEEDS[:3], "data.mishap=error", "hydra.launcher.workers=1")
    stopped = project.lab(*bad, "seed=0,1,2", "on_error=stop")
    assert stopped.code == 1
    assert [status["state"] for status in project.states().values()] == ["failed"]
    stopped = project.lab(*bad, "seed=3,4,5", "max_failures=2")
    assert stopped.code == 1
    assert len(project.runs()) == 3
    again = project.lab(*bad, "seed=6,7", "data.once=fell", "max_retries=1")
    assert again.code == 0, again.err
    assert again.err.count("trying again") == 2


def test_a_run_too_large_for_memory_is_done_in_parts_and_says_so(project):
    command = ("train", "-m", SHORT, "model.most=5,null", "oom=shrink", "hydra.launcher.workers=1")
    done = project.lab(*command)
    assert done.code == 0, done.err
    for run in project.runs():
        manifest = read(run / "manifest.json")
        assert manifest["exact"] is (config(run)["model"]["most"] is None)
        assert manifest["exact"] or "micro-batch 5" in manifest["inexact"][0]


def test_a_run_after_one_that_leaves_its_process_in_disorder_finds_it_as_new(project, unbroken):
    one_by_one = ("train", "-m", SHORT, "seed=1", "hydra.launcher.workers=1")
    project.lab(*one_by_one, "data.mishap=leak,leak_modes,none,look")
    found = {config(run)["data"]["mishap"]: run for run in project.runs()}
    assert read(found["leak"] / "status.json")["state"] == "done"
    assert bits(found["none"]) == unbroken[1]
    project.lab(*one_by_one, "data.mishap=look", "data.pause=1e-6", "hydra.launcher.isolation=process")
    (new,) = set(project.runs()) - set(found.values())
    after, alone = found["look"] / "output.txt", new / "output.txt"
    assert after.read_text().splitlines() == alone.read_text().splitlines()
    assert after.stat().st_mode == alone.stat().st_mode
