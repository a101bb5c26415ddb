"""A run's or a sweep's directory from someone else: lab writes through no link that lies in it."""

import json
import logging
import os
import shutil

import pytest

from lab.errors import DamagedRun, Refused
from lab.record.files import create_file, lock_directory, open_to_append, write_json
from lab.record.recording import recording
from lab.sweep.search import open_storage
from lab.train.stop import StopSignal

SMALL = ("model=mlp", "steps=2", "logger=tensorboard", "hardware=cpu")
SECRET = "ssh-ed25519 of somebody\n"
REPLACED = (
    *("error.txt", "config.yaml", "manifest.json", "status.json", "results.json", "output.txt.tmp"),
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    *("checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt", "events.out.tfevents.1"),
)


@pytest.fixture
def run(lab, tmp_path):
    """A run that was stopped before its first step, and the file of somebody outside of it."""
    assert lab("train", *SMALL, "save_every=1").code == 0
    (run,) = tmp_path.glob("outputs/runs/train/*")
    status = json.loads((run / "status.json").read_text())
    write_json(run / "status.json", {**status, "state": "interrupted", "sealed": {}})
    for path in run.glob("checkpoints/*"):
        path.unlink()
    return run


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "authorized_keys"
    path.write_text(SECRET)
    return path


def test_a_file_that_is_made_anew_replaces_a_link(lab, run, precious):
    planted = [run / name for name in REPLACED]
    planted += [path.with_name(f".{path.name}.{os.getpid()}") for path in planted]  # half-written files have such names
    for path in planted:
        if path.name in ("config.yaml", "manifest.json", "status.json", "hydra.yaml", "overrides.yaml"):
            continue  # resume reads them; the links to them are planted below
        path.unlink(missing_ok=True)
        path.symlink_to(precious)
    for name in ("config.yaml", "manifest.json", ".hydra/config.yaml", ".hydra/hydra.yaml", "status.json"):
        copy = precious.with_name(f"copy-{name.replace('/', '-')}")
        shutil.copy(run / name, copy)
        (run / name).unlink()
        (run / name).symlink_to(copy)
    before = {path: path.read_bytes() for path in precious.parent.glob("copy-*")}
    ended = lab("resume", str(run))
    assert ended.code == 0, ended.err
    assert precious.read_text() == SECRET
    assert {path: path.read_bytes() for path in before} == before
    assert not (run / "error.txt").is_symlink()
    assert json.loads((run / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize("name", ["run.log", "metrics.jsonl", ".lock", "checkpoints", ".hydra"])
def test_a_link_in_place_of_what_is_continued_is_refused_by_name(lab, run, precious, name):
    path, other = run / name, precious.parent / "elsewhere"
    is_folder = path.is_dir()
    shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)
    other.mkdir()
    path.symlink_to(other if is_folder else precious)
    ended = lab("resume", str(run))
    assert ended.code != 0
    assert f"{name} is a link to" in ended.err
    assert precious.read_text() == SECRET
    assert not list(other.iterdir())


def test_a_hard_link_keeps_its_other_name_unchanged(tmp_path, precious):
    os.link(precious, tmp_path / "run.log")
    with os.fdopen(open_to_append(tmp_path / "run.log"), "a") as file:
        file.write("more")
    assert (tmp_path / "run.log").read_text() == f"{SECRET}more"
    os.link(precious, tmp_path / "error.txt")
    os.close(create_file(tmp_path / "error.txt"))
    assert precious.read_text() == SECRET


def test_a_pipe_in_place_of_a_file_does_not_hold_lab_up(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(DamagedRun, match="is not a regular file"), lock_directory(tmp_path):
        pass


def test_a_log_goes_to_the_runs_own_file(tmp_path, precious):
    (tmp_path / "error.txt").symlink_to(precious)
    manifest = {"id": "01234567", "segments": [{"started": 0.0}]}

    def log_and_fail() -> None:
        logging.getLogger().warning("seen")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), recording(tmp_path, manifest, StopSignal()):
        log_and_fail()
    assert "seen" in (tmp_path / "run.log").read_text()
    assert "ZeroDivisionError" in (tmp_path / "error.txt").read_text()
    assert precious.read_text() == SECRET


def test_a_directory_that_is_a_link_is_refused_and_a_sweeps_link_to_its_run_is_followed(lab, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    (tmp_path / "theirs").symlink_to(elsewhere)
    ended = lab("resume", "theirs")
    assert ended.code == Refused.exit_code
    assert "theirs is a link to" in ended.err
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before
    sweep = tmp_path / "outputs" / "sweeps" / "mine"
    sweep.mkdir(parents=True)
    (sweep / "0-link").symlink_to(run)
    assert lab("resume", str(sweep / "0-link")).code == 0


def test_the_outputs_folder_may_be_a_link_to_another_disk(lab, tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "scratch")
    assert lab("train", *SMALL).code == 0
    assert list(tmp_path.glob("scratch/runs/train/*/results.json"))


def test_the_files_of_a_sweep_are_not_written_through_links(lab, tmp_path, precious):
    command = ("train", "-m", *SMALL, "seed=0,1", "hydra.launcher.workers=1")
    assert lab(*command).code == 0
    (sweep,) = tmp_path.glob("outputs/sweeps/*")
    for name in ("plan.jsonl", "table.csv", "table.md", "events.out.tfevents.1"):
        (sweep / name).unlink(missing_ok=True)
        (sweep / name).symlink_to(precious)
    ended = lab(*command)
    assert ended.code == 0, ended.err
    assert precious.read_text() == SECRET
    assert not (sweep / "plan.jsonl").is_symlink()
    assert (sweep / "table.csv").read_text() != SECRET


@pytest.mark.parametrize("name", ["search.db", "search.db-journal", "search.db-wal"])
def test_the_file_of_a_search_is_not_written_through_a_link(tmp_path, precious, name):
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(DamagedRun, match=f"{name} is a link to"):
        open_storage(tmp_path / "search.db")
    assert precious.read_text() == SECRET
