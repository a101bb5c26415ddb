"""Runs on disk, read: each file once, damaged ones at the cost of their own row, wherever the outputs are."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from lab.errors import ConfigError, DamagedRun
from lab.ledger.listing import find_run, find_runs, run_row, runs_by_id
from lab.ledger.saved_run import SavedRun
from lab.ledger.weights_file import find_weights
from lab.record.files import sha256
from lab.record.status import hash_sealed_files, write_status

CONFIG = "final: best\nmodel: {_target_: lab.models.mlp.MLP}\n"


def write_run(directory, state="done", id8="0123abcd", **files):
    """A run directory as lab leaves it, but for the weights."""
    (directory / "checkpoints").mkdir(parents=True)
    manifest = {"id": id8, "seed": 3, "overrides": ["seed=3"], "experiment": "train", "started": 1.0}
    contents = {
        "config.yaml": CONFIG,
        "manifest.json": json.dumps(manifest),
        "results.json": json.dumps({"test/accuracy": 0.5}),
        "metrics.jsonl": '{"step": 1, "train/loss": 2.0}\n',
        "checkpoints/last.pt": "last",
        "checkpoints/best.pt": "best",
        **files,
    }
    for name, text in contents.items():
        (directory / name).write_text(text)
    write_status(directory, state, id=id8, ended=2.0, sealed=hash_sealed_files(directory) if state == "done" else None)
    return directory


def test_a_file_is_read_once(tmp_path):
    run = SavedRun(write_run(tmp_path / "run"))
    assert run.results == {"test/accuracy": 0.5}
    (tmp_path / "run" / "results.json").write_text("{}")
    assert run.results == {"test/accuracy": 0.5}
    assert SavedRun(tmp_path / "run").results == {}


def test_the_final_weights_are_the_best_where_they_are_asked_for_and_there(tmp_path):
    best = write_run(tmp_path / "best")
    last = write_run(tmp_path / "last", **{"config.yaml": CONFIG.replace("best", "last")})
    no_validation = write_run(tmp_path / "none")
    (no_validation / "checkpoints" / "best.pt").unlink()
    status = json.loads((no_validation / "status.json").read_text())
    status["sealed"].pop("checkpoints/best.pt")
    (no_validation / "status.json").write_text(json.dumps(status))
    names = [SavedRun(directory).final_weights.name for directory in (best, last, no_validation)]
    assert names == ["best.pt", "last.pt", "last.pt"]


def test_weights_mean_a_file_a_run_or_an_id(tmp_path):
    run = write_run(tmp_path / "outputs" / "runs" / "train" / "mlp-0123abcd")
    best = run / "checkpoints" / "best.pt"
    for weights in (str(run), "0123abcd"):
        file = find_weights(weights, tmp_path / "outputs")
        assert (file.path, file.sealed) == (best, sha256(best))
    assert find_weights(str(best), tmp_path).sealed is None
    assert find_weights("IMAGENET1K_V1", tmp_path) is None
    best.write_text("other")
    with pytest.raises(ValueError, match="has changed since its run was done"):
        file.check()
    with pytest.raises(ConfigError, match="is interrupted, not done"):
        find_weights(str(write_run(tmp_path / "stopped", "interrupted")), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("status.json", "[1, 2]", "is not a run's"),
        ("status.json", '{"state": "great"}', "is not a run's"),
        ("manifest.json", "[]", "holds a list, not a mapping"),
        ("results.json", "3", "holds a int, not a mapping"),
    ],
)
def test_a_damaged_directory_costs_its_own_row(tmp_path, name, content, reason):
    write_run(tmp_path / "good-0123abcd")
    damaged = write_run(tmp_path / "damaged-4567abcd", id8="4567abcd")
    (damaged / name).write_text(content)
    rows = {row["id"]: row for row in map(run_row, map(SavedRun, find_runs(tmp_path)))}
    assert rows["0123abcd"]["state"] == "done"
    assert rows["4567abcd"]["state"] == "damaged"
    assert reason in rows["4567abcd"]["error"]
    run = SavedRun(damaged)
    with pytest.raises(DamagedRun, match=reason):
        _ = (run.status, run.manifest, run.results)


def test_what_is_no_run_below_outputs_stops_no_command(lab, tmp_path):
    runs = tmp_path / "outputs" / "runs" / "train"
    good = write_run(runs / "mlp-0123abcd")
    os.mkfifo(runs / "pipe")
    pipe_inside = write_run(runs / "pipes-89abcdef", id8="89abcdef")
    (pipe_inside / "status.json").unlink()
    os.mkfifo(pipe_inside / "status.json")
    (runs / "up").symlink_to(runs.parent)
    (runs / "itself").symlink_to(runs / "itself")
    (runs / "no_run").mkdir()
    (runs / "text-01234567").write_text("a file with a run's name")
    write_run(runs / "foreign-4567abcd", id8="4567abcd", **{"config.yaml": "a: [1"})
    listed = lab("ls")
    assert listed.code == 0, listed.err
    assert listed.out.count("\n0123abcd ") == 1
    assert lab("show", "0123").code == 0
    shown = lab("show", "4567abcd")
    assert shown.code == 2
    assert "config.yaml is damaged" in shown.err
    assert find_run(good, tmp_path) == good
    assert set(runs_by_id(tmp_path / "outputs" / "runs")) == {"0123abcd", "4567abcd", "89abcdef"}


@pytest.mark.parametrize("how", ["argument", "machine", "project", "environment"])
def test_outputs_can_be_elsewhere_for_every_command(lab, tmp_path, monkeypatch, how):
    elsewhere = tmp_path / "big"
    write_run(elsewhere / "runs" / "train" / "mlp-0123abcd")
    arguments = []
    if how == "argument":
        arguments = [f"paths.outputs={elsewhere}"]
    elif how == "machine":
        (tmp_path / "conf" / "local").mkdir(parents=True)
        (tmp_path / "conf" / "local" / "default.yaml").write_text(
            f"# @package _global_\npaths:\n  outputs: {elsewhere}\n"
        )
    elif how == "project":
        (tmp_path / "conf" / "paths").mkdir(parents=True)
        (tmp_path / "conf" / "paths" / "default.yaml").write_text("data: data\noutputs: ${oc.env:LAB_BIG,nowhere}\n")
        monkeypatch.setenv("LAB_BIG", str(elsewhere))
    else:
        monkeypatch.setenv("LAB_OUTPUTS", str(elsewhere))
    assert "0123abcd" in lab("ls", *arguments).out
    assert "test/accuracy" in lab("show", "0123abcd", *arguments).out
    assert lab("diff", "0123abcd", "0123abcd", *arguments).out == "no difference\n"
    weights = lab("train", "model=mlp", "steps=1", "weights=0123abcd", *arguments)
    assert "best.pt is no file of weights, or damaged" in weights.err
    shutil.rmtree(elsewhere)
    assert lab("show", "0123abcd", *arguments).code == 2


def test_a_file_larger_than_any_runs_is_not_read(tmp_path):
    for name in ("status.json", "manifest.json", "config.yaml"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**30)
    run = SavedRun(tmp_path)
    for read in (lambda: run.status, lambda: run.manifest, lambda: run.config):
        with pytest.raises(DamagedRun, match="has 1074 MB"):
            read()


def test_a_run_took_the_time_of_its_segments_not_the_time_between_them(lab, tmp_path):
    segments = [{"started": 0.0, "ended": 2.0}, {"started": 5.0}, {"started": 100.0}]  # the second one was killed
    manifest = json.dumps({"id": "0123abcd", "started": 0.0, "segments": segments})
    directory = write_run(tmp_path / "outputs" / "runs" / "r-0123abcd", **{"manifest.json": manifest})
    (directory / "status.json").write_text(json.dumps({"state": "diverged", "started": 100.0, "ended": 103.5}))
    run = SavedRun(directory)
    assert run.seconds_so_far == 5.5
    assert run.seconds is None
    assert re.search(r"^took +5\.5 s$", lab("show", "0123").out, re.MULTILINE)


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("failed", "lab retry "),
        ("interrupted", "lab resume "),
        ("diverged", "lower optimizer.lr"),
        ("pending", "resume"),
    ],
)
def test_a_run_that_is_not_done_tells_what_to_type_next(lab, tmp_path, state, advice):
    directory = write_run(tmp_path / "outputs" / "runs" / "r-0123abcd")
    (directory / "status.json").write_text(json.dumps({"state": state}))
    ended = lab("eval", "0123")
    assert ended.code == 2
    assert advice in ended.err


def test_weights_may_name_a_run_that_was_done_again(tmp_path):
    directory = write_run(tmp_path / "runs" / "r-again2-0123abcd")
    assert find_run(Path("again2-0123abcd"), tmp_path) == directory
    assert find_weights("again2-0123abcd", tmp_path).path == directory / "checkpoints" / "best.pt"
    assert find_weights("again2", tmp_path) is None, "a name of the model's library"
