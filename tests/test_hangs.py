"""What hangs or freezes is ended and said where, and signals to all processes of a job end none of its runs badly."""

import os
import signal
from pathlib import Path

import pytest

from lab.record.status import read_status
from tests.processes import finish
from tests.project import SHORT, assert_unharmed, config, read, wait_for

pytestmark = pytest.mark.slow

READ = ("train", SHORT, "data=read_by_workers", "eval_every=20")


def processes(project) -> list[int]:
    """The processes that have the project's directory as their own."""
    root = project.root.resolve()
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.resolve() == root and "Z" not in (path.parent / "stat").read_text().split()[2]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_frozen_run_and_one_that_closes_or_copies_its_descriptors_end_and_hold_up_no_other(project):
    command = ("train", "-m", SHORT, "data.mishap=freeze,close,fork,none", "step_timeout=2")
    process = project.start(*command, "hydra.launcher.workers=2")
    wait_for(lambda: process.poll() is not None)
    left = processes(project)
    assert left  # what holds copies, and what waits for their end; the sweep did not
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 1, ended.err
    states = project.states("mishap")
    assert {mishap: status["state"] for mishap, status in states.items()} == {
        "freeze": "failed",
        "close": "failed",
        "fork": "done",
        "none": "done",
    }
    assert "hung: a step did not end in 2 s" in states["freeze"]["error"]
    assert "it was stopped, or frozen" in next(
        (run / "error.txt").read_text() for run in project.runs() if config(run)["data"]["mishap"] == "freeze"
    )


def test_an_example_that_is_never_read_is_named_by_its_line_in_a_run_and_in_a_preflight(project):
    hang = project.start(*READ, "data.hangs_at=57", "data.workers=1", "step_timeout=2")
    assert finish(hang).code == 1
    (run,) = project.runs()
    status = read_status(run)
    assert status["state"] == "failed"
    assert "mishaps.py:" in status["error"]
    assert status["error"].split("; ")[0].endswith("in hang")
    wait_for(lambda: not processes(project))  # its loader worker has ended, too

    tried = project.lab("train", "-m", *READ[1:], "data.hangs_at=57,58", "model.hangs=true", "step_timeout=2")
    assert tried.code == 2
    assert "trying ended its process (1 of 2: dropout on read_by_workers): hung" in tried.err
    assert "mishaps.py:" in tried.err
    assert len(project.runs()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_preflight_that_hangs_is_ended_by_a_signal(project, number, code):
    project.new = True
    process = project.start("train", "-m", SHORT, "model.hangs=true", "seed=0,1")
    wait_for(lambda: len(processes(project)) >= 4)  # this one, the tracker, the fork server and a worker
    os.killpg(process.pid, number)
    ended = finish(process)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert not project.runs()
    wait_for(lambda: not processes(project))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_saves_it(project, number):
    whole = project.lab(*READ, "data.workers=0", "seed=1", "paths.outputs=elsewhere/outputs")
    assert whole.code == 0, whole.err
    command = (*READ, "data.workers=2", "data.pause=0.01", "seed=1")
    process = project.start(*command)
    project.await_steps(3)
    for pid in processes(project):
        os.kill(pid, number)
    stopped = finish(process)
    assert stopped.code == 75, stopped.err
    assert f"{number.name} after step" in stopped.err
    done = project.lab(*command)
    assert done.code == 0, done.err


@pytest.mark.parametrize("new", [False, True])
def test_a_signal_to_all_processes_of_a_sweep_saves_its_runs(project, unbroken, new):
    project.new = new
    sweep = ("train", "-m", SHORT, "seed=0,1,2", "hydra.launcher.workers=2", "data.pause=0.05")
    process = project.start(*sweep)
    project.await_steps(3)
    for pid in processes(project):
        os.kill(pid, signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 75, stopped.err
    states = project.states()
    assert {status["state"] for status in states.values()} == {"interrupted"}, states
    done = project.lab(*sweep)
    assert done.code == 0, done.err
    assert_unharmed(project, unbroken)


def test_a_stopped_worker_does_not_hold_up_a_sweep_that_is_to_end(project):
    process = project.start("train", "-m", SHORT, "seed=0,1", "hydra.launcher.workers=2", "data.pause=0.1")
    runs = project.await_steps(2, runs=2)
    os.kill(read(runs[0] / "status.json")["pid"], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    states = project.states()
    assert {status["state"] for status in states.values()} == {"interrupted"}, states
