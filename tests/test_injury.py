"""What no run and no sweep may be harmed by: real processes that are killed, stopped, starved and lied to.

After each injury the same command ends with every run done once, in the bits of a sweep that nothing happened to.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Ended, scores

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
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=2 * PATIENCE)
    return Ended(process.returncode, out, err)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def config(run: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((run / "config.yaml").read_text())


def last_step(run: Path) -> int:
    return max(json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines())


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
    text = (run / "metrics.jsonl").read_text()
    return {"metrics.jsonl": text, "results.json": scores(read(run / "results.json")), **frozen(states)}


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
        assert not (run / "error.txt").exists()


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


def test_the_same_command_ends_what_killing_its_processes_broke_off(project, unbroken):
    process = project.start(*SEEDS, SLOW)
    run = project.await_steps(5, runs=2)[0]
    os.kill(read(run / "status.json")["pid"], signal.SIGKILL)  # a worker alone
    done = ended(process)
    assert done.code == 1
    assert len(project.runs()) == 3, "the others go on"
    states = project.states()
    (failed,) = [seed for seed in states if states[seed]["state"] == "failed"]
    assert "killed by SIGKILL" in states[failed]["error"]
    assert [states[seed]["state"] for seed in states if seed != failed] == ["done", "done"]

    process = project.start(*SEEDS, SLOW)
    project.await_steps(8)
    process.kill()  # the supervisor alone: its worker saves and goes
    ended(process)
    wait_for(lambda: project.states()[failed]["state"] in ("interrupted", "done"))
    done = project.lab(*SEEDS, SLOW)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_killed_at_random_moments_it_comes_to_the_same(project, unbroken):
    moments = random.Random(0)
    for _ in range(2):
        process = project.start(*SEEDS, SLOW)
        project.await_steps(1)
        time.sleep(moments.uniform(0, 0.8))
        os.killpg(process.pid, signal.SIGKILL)
        ended(process)
    done = project.lab(*SEEDS, SLOW)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_two_commands_at_once_share_the_work_though_one_is_put_to_sleep_meanwhile(project, unbroken):
    both = [project.start(*SEEDS, SLOW) for _ in range(2)]
    project.await_steps(3)
    os.killpg(both[0].pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.killpg(both[0].pid, signal.SIGCONT)
    for done in map(ended, both):
        assert done.code == 0, done.err
    assert_unharmed(project, unbroken)
    assert [len(read(run / "manifest.json")["segments"]) for run in project.runs()] == [1, 1, 1]


def test_a_sweep_that_is_asked_to_stop_saves_and_is_resumed(project, unbroken):
    command = (*SEEDS, "data.pause=0.1")
    stopped = project.lab(*command, "time_limit=0.5")
    assert stopped.code == 75, stopped.err
    assert "time_limit reached" in stopped.err
    steps = dict.fromkeys((0, 1, 2), 0)
    for ask, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        process = project.start(*command)
        project.await_steps(max(steps.values()) + 1)
        # the keyboard's goes to the whole group
        (os.killpg if ask == signal.SIGINT else os.kill)(process.pid, ask)
        stopped = ended(process)
        assert stopped.code == code, stopped.err
        assert {status["state"] for status in project.states().values()} <= {"interrupted", "done"}
        reached = {read(run / "manifest.json")["seed"]: last_step(run) for run in project.runs()}
        assert all(reached[seed] >= steps[seed] for seed in reached)
        steps |= reached
    done = project.lab("resume", str(project.sweep()), "--workers", "2")
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(project, unbroken):
    command = (*SEEDS[:-1], SLOW, "hydra.launcher.workers=3")
    process = project.start(*command)
    runs = project.await_steps(8, runs=3)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    for run, damage in zip(runs, (cut, zeroed, flipped), strict=True):
        damage(run / "checkpoints" / "last.pt")
    done = project.lab(*command)
    assert done.code == 0, done.err
    assert len(re.findall(r"lost [1-9][0-9]* steps, going on from step [1-9]", done.err)) == 3, done.err
    assert_unharmed(project, unbroken)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0") + 200] ^= 1  # in a tensor: the archive itself still opens
    path.write_bytes(content)


def test_workers_killed_whenever_they_are_about_to_touch_a_file(project, unbroken):
    dying = {"PYTHONPATH": os.pathsep.join([str(project.root / "dying"), os.environ.get("PYTHONPATH", "")])}
    killed = project.lab(*SEEDS, SLOW, DIE_AT="75", DIE_WHO="worker", **dying)
    assert killed.code == 1, killed.err
    assert "killed by SIGKILL" in killed.err
    done = project.lab(*SEEDS, SLOW, DIE_AT="done", DIE_WHO="worker", **dying)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


# one run


def test_a_run_killed_when_it_is_about_to_touch_a_file_comes_to_the_same(project):
    asked = (SHORT, "steps=6", "save_every=2", "eval_every=3")
    tried = subprocess.run(
        [sys.executable, "dying/again_and_again.py", "4", *asked], cwd=project.root, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr
    codes = [json.loads(line)[:2] for line in tried.stdout.splitlines()]
    assert codes == [[-signal.SIGKILL, 0]] * 4
    (whole, *others) = sorted(
        project.root.glob("copies/*/outputs/runs/mishaps/short/*"), key=lambda run: "whole" not in str(run)
    )
    assert len(others) == 4
    for run in others:
        assert read(run / "status.json")["state"] == "done"
        assert bits(run) == bits(whole), run
        assert {path.name for path in run.iterdir() if "tfevents" not in path.name} == {
            path.name for path in whole.iterdir() if "tfevents" not in path.name
        }


def test_a_run_whose_process_is_killed_is_resumed_while_its_loader_workers_live_on(project):
    asked = ("train", SHORT, "eval_every=20", "data=read_by_workers", "data.pause=0.01")
    process = project.start(*asked)
    project.await_steps(5)
    process.kill()
    again = project.start(*asked)
    wait_for(lambda: len(read(project.runs()[0] / "manifest.json")["segments"]) == 2)
    project.await_steps(8)
    again.send_signal(signal.SIGUSR1)
    stopped = ended(again)
    assert stopped.code == 75, stopped.err
    assert "the same command goes on" in stopped.err
    done = project.lab(*asked)
    assert done.code == 0, done.err
    (run,) = project.runs()
    assert len(read(run / "manifest.json")["segments"]) == 3
    whole = project.lab(*asked, "data.workers=0", "paths.outputs=elsewhere/outputs")
    assert whole.code == 0, whole.err
    (other,) = set(project.runs()) - {run}
    assert bits(run) == bits(other)


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


def test_a_sweep_stops_at_its_first_failure_or_after_so_many_where_that_is_asked_for(project):
    bad = ("train", "-m", SHORT, "data.mishap=error", "hydra.launcher.workers=1")
    first = project.start(*bad, "seed=0,1", "on_error=stop")
    second = project.start(*bad, "seed=3,4,5", "max_failures=2")
    for stopped in (ended(first), ended(second)):
        assert stopped.code == 1
        assert "lab resume" in stopped.err
    assert {seed: status["state"] for seed, status in project.states().items()} == dict.fromkeys((0, 3, 4), "failed")


def test_a_failure_is_tried_again_and_a_run_too_large_for_memory_is_done_in_parts_and_says_so(project):
    helped = ("max_retries=1", "oom=shrink", "hydra.launcher.workers=2")
    done = project.lab("train", "-m", SHORT, "model.most=5,null", "data.mishap=none,error", "data.once=fell", *helped)
    assert done.code == 0, done.err
    assert done.err.count("trying again") == 1
    assert len(project.runs()) == 4
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


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    place = tmp_path / "disk" / "outputs"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "lab", place], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="a small disk is a tmpfs")
def test_a_full_disk_fails_its_runs_and_the_same_command_does_them_once_there_is_room(small_disk, project, unbroken):
    command = (*SEEDS, SLOW, f"paths.outputs={small_disk}")
    process = project.start(*command)
    wait_for(lambda: [path for path in small_disk.rglob("metrics.jsonl") if path.stat().st_size > 300])
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:  # until no space is left
            file.write(bytes(4096))
    full = ended(process)
    assert full.code == 1, full.err
    assert "No space left" in full.err
    filler.unlink()
    done = project.lab(*command)
    assert done.code == 0, done.err
    project.root = small_disk.parent
    assert_unharmed(project, unbroken)


# directories

STRANGE = ["a/../b 😀", "../../../../up", ".hidden", "-rf", "n" * 300, "Ö" * 300, "a\\b", "~", "*", "con.", "%s{}"]


def test_names_of_any_kind_stay_in_outputs_and_apart(project):
    text = ",".join(json.dumps(name, ensure_ascii=False) for name in STRANGE)
    made = project.lab("train", "-m", SHORT, "steps=1", f"data.once={text}", "hydra.launcher.workers=1")
    assert made.code == 0, made.err
    assert len(project.runs()) == len(STRANGE)
    assert {run.parent for run in project.runs()} == {project.root / "outputs" / "runs" / "mishaps" / "short"}
    assert not list(project.root.parent.glob("*up*"))


def test_single_runs_started_at_once_have_a_directory_each(project):
    runs = [project.start("train", SHORT, "steps=1", f"seed={seed}") for seed in (5, 6)]
    assert [ended(run).code for run in runs] == [0, 0]
    assert len(project.runs()) == 2
