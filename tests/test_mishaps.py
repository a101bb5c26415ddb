"""Runs that go wrong by themselves, want more than the machine has, or have names that no directory should."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import finish
from tests.project import SEEDS, SHORT, SLOW, assert_unharmed, bits, config, read, wait_for

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


@pytest.mark.slow
def test_a_bad_run_harms_no_other_and_is_taken_again_when_that_may_help(project, unbroken):
    mishaps = ",".join(["none", *INSIDE, *OUTSIDE, "talk"])
    command = ("train", "-m", SHORT, f"data.mishap={mishaps}", "data.once=fell", "step_timeout=2")
    command += ("hydra.launcher.workers=2",)
    first = project.lab(*command)
    assert first.code == 1, first.err
    states = project.states("mishap")
    for mishap, message in (INSIDE | OUTSIDE).items():
        status = states.pop(mishap)
        assert status["state"] == ("diverged" if mishap == "diverge" else "failed"), mishap
        assert message in status["error"], mishap
        assert message in first.err, mishap
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
            output = (run / "output.txt").read_text()
            assert output.count("talk 19999") == 2
            assert "from a child" in output
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
    for stopped in (finish(first), finish(second)):
        assert stopped.code == 1
        assert "lab resume" in stopped.err
    assert {seed: status["state"] for seed, status in project.states().items()} == dict.fromkeys((0, 3, 4), "failed")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_after_one_that_leaves_its_process_in_disorder_finds_it_as_new(project, unbroken):
    one_by_one = ("train", "-m", SHORT, "seed=1", "hydra.launcher.workers=1")
    project.lab(*one_by_one, "data.mishap=leak,leak_modes,none,look")
    runs = {config(run)["data"]["mishap"]: run for run in project.runs()}
    assert read(runs["leak"] / "status.json")["state"] == "done"
    assert bits(runs["none"]) == unbroken[1]
    project.lab(*one_by_one, "data.mishap=look", "data.pause=1e-6", "hydra.launcher.isolation=process")
    (new,) = set(project.runs()) - set(runs.values())
    after, alone = runs["look"] / "output.txt", new / "output.txt"
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a small disk is a tmpfs")
def test_a_full_disk_fails_its_runs_and_the_same_command_does_them_once_there_is_room(small_disk, project, unbroken):
    command = (*SEEDS, SLOW, f"paths.outputs={small_disk}")
    process = project.start(*command)
    wait_for(lambda: [path for path in small_disk.rglob("metrics.jsonl") if path.stat().st_size > 300])
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:  # until no space is left
            file.write(bytes(4096))
    full = finish(process)
    assert full.code == 1, full.err
    assert "No space left" in full.err
    filler.unlink()
    done = project.lab(*command)
    assert done.code == 0, done.err
    project.root = small_disk.parent
    assert_unharmed(project, unbroken)


# directories

STRANGE = ["a/../b 😀", "../../../../up", ".hidden", "-rf", "n" * 300, "Ö" * 300, "a\\b", "~", "*", "con.", "%s{}"]


@pytest.mark.slow
def test_names_of_any_kind_stay_in_outputs_and_apart(project):
    text = ",".join(json.dumps(name, ensure_ascii=False) for name in STRANGE)
    done = project.lab("train", "-m", SHORT, "steps=1", f"data.once={text}", "hydra.launcher.workers=1")
    assert done.code == 0, done.err
    assert len(project.runs()) == len(STRANGE)
    assert {run.parent for run in project.runs()} == {project.root / "outputs" / "runs" / "mishaps" / "short"}
    assert not list(project.root.parent.glob("*up*"))


def test_single_runs_started_at_once_have_a_directory_each(project):
    runs = [project.start("train", SHORT, "steps=1", f"seed={seed}") for seed in (5, 6)]
    assert [finish(run).code for run in runs] == [0, 0]
    assert len(project.runs()) == 2
