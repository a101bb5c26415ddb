"""What no run and no sweep may be harmed by: processes that are killed, stopped or put to sleep, and damaged files.

After each injury the same command ends with every run done once, in the bits of a sweep that nothing happened to.
"""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.processes import finish, start_python
from tests.project import SEEDS, SHORT, SLOW, assert_unharmed, bits, last_step, read, wait_for

pytestmark = pytest.mark.slow

# whole sweeps


def test_the_same_command_ends_what_killing_its_processes_broke_off(project, unbroken):
    process = project.start(*SEEDS, SLOW)
    run = project.await_steps(5, runs=2)[0]
    os.kill(read(run / "status.json")["pid"], signal.SIGKILL)  # a worker alone
    done = finish(process)
    assert done.code == 1
    assert len(project.runs()) == 3, "the others go on"
    states = project.states()
    (failed,) = [seed for seed in states if states[seed]["state"] == "failed"]
    assert "killed by SIGKILL" in states[failed]["error"]
    assert [states[seed]["state"] for seed in states if seed != failed] == ["done", "done"]

    process = project.start(*SEEDS, SLOW)
    project.await_steps(8)
    process.kill()  # the supervisor alone: its worker saves and goes
    finish(process)
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
        finish(process)
    done = project.lab(*SEEDS, SLOW)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_two_commands_at_once_share_the_work_though_one_is_put_to_sleep_meanwhile(project, unbroken):
    both = [project.start(*SEEDS, SLOW) for _ in range(2)]
    project.await_steps(3)
    os.killpg(both[0].pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.killpg(both[0].pid, signal.SIGCONT)
    for done in map(finish, both):
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
        stopped = finish(process)
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
    finish(process)
    for run, damage in zip(runs, (cut, zeroed, flipped), strict=True):
        damage(run / "checkpoints" / "last.pt")
    done = project.lab(*command)
    assert done.code == 0, done.err
    assert len(re.findall(r"lost [1-9][0-9]* steps at least, going on from step [1-9]", done.err)) == 3, done.err
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
    command = (SHORT, "steps=6", "save_every=2", "eval_every=3")
    script = "import runpy, sys; sys.path[0] = 'dying'; runpy.run_path('dying/again_and_again.py')"
    tried = finish(start_python("-c", script, "4", *command, cwd=project.root))
    assert tried.code == 0, tried.err
    codes = [json.loads(line)[:2] for line in tried.out.splitlines()]
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
    command = ("train", SHORT, "eval_every=20", "data=read_by_workers", "data.pause=0.01")
    process = project.start(*command)
    project.await_steps(5)
    process.kill()
    again = project.start(*command)
    wait_for(lambda: len(read(project.runs()[0] / "manifest.json")["segments"]) == 2)
    project.await_steps(8)
    again.send_signal(signal.SIGUSR1)
    stopped = finish(again)
    assert stopped.code == 75, stopped.err
    assert "the same command goes on" in stopped.err
    done = project.lab(*command)
    assert done.code == 0, done.err
    (run,) = project.runs()
    assert len(read(run / "manifest.json")["segments"]) == 3
    whole = project.lab(*command, "data.workers=0", "paths.outputs=elsewhere/outputs")
    assert whole.code == 0, whole.err
    (other,) = set(project.runs()) - {run}
    assert bits(run) == bits(other)
