"""Keeping house: which runs are listed, what is written on them, what goes and what stays."""

import json
import subprocess
import tarfile

import pytest

from lab.ledger.listing import run_rows
from lab.ledger.query import RunFilter, parse_condition
from lab.ledger.tidying import folder_size
from lab.record.files import lock_directory
from tests.run_directories import write_run


@pytest.fixture
def runs(tmp_path):
    """Three runs of a sweep over lr that ended well, and one that failed; each with 1,000 bytes of a checkpoint."""
    folder = tmp_path / "outputs" / "runs" / "train"
    found = [
        write_run(folder, {"optimizer.lr": lr}, seed, {"accuracy": 0.8 + seed / 10})
        for seed, lr in enumerate((0.1, 0.01, 1e-3))
    ]
    found.append(write_run(folder, {"optimizer.lr": 9}, 7, None, state="failed"))
    for run in found:
        (run / "checkpoints").mkdir()
        for name in ("best", "last", "previous"):
            (run / "checkpoints" / f"{name}.pt").write_bytes(bytes(1000))
    return found


def listed(lab, *arguments):
    return [row["seed"] for row in json.loads(lab("ls", "--json", *arguments).out)]


@pytest.mark.parametrize(
    ("conditions", "seeds"),
    [
        (["state=failed"], [7]),
        (["state!=failed"], [0, 1, 2]),
        (["test/accuracy>0.85"], [1, 2]),
        (["test/accuracy>=0.9", "optimizer.lr<0.01"], [2]),
        (["optimizer.lr=1e-2"], [1]),
        (["seed=07"], [7]),
        (["experiment~rai"], [0, 1, 2, 7]),
        (["model=mlp", "test/accuracy<0.1"], []),
    ],
)
def test_runs_are_listed_by_conditions(lab, runs, conditions, seeds):
    assert listed(lab, *(part for text in conditions for part in ("--where", text))) == seeds


def test_runs_are_sorted_and_shown_in_chosen_columns(lab, runs):
    assert listed(lab, "--sort", "test/accuracy") == [7, 0, 1, 2]
    assert listed(lab, "--sort", "-test/accuracy") == [2, 1, 0, 7]
    shown = lab("ls", "--columns", "seed,optimizer.lr,test/accuracy,note", "--where", "seed=1").out.splitlines()
    assert [line.split()[:4] for line in shown] == [
        ["seed", "optimizer.lr", "test/accuracy", "note"],
        ["1", "0.01", "0.9", "-"],
    ]
    for arguments, message in (
        (("--where", "seed"), "is no condition; write"),
        (("--where", "seed>x"), "'x' is not a number"),
        (("--where", "optimizer.lrr=1"), "no run has 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        (("--sort", "sed"), "did you mean 'seed'"),
        (("--columns", "stat"), "did you mean 'state'"),
    ):
        ended = lab("ls", *arguments)
        assert (ended.code, message in ended.err) == (2, True), ended.err
    assert "no runs in outputs that meet seed=4" in lab("ls", "--where", "seed=4").out


def test_a_condition_is_read_with_spaces_and_signs():
    assert parse_condition("test/accuracy >= 0.9") == RunFilter("test/accuracy", ">=", "0.9")
    assert parse_condition("note~a=b") == RunFilter("note", "~", "a=b")


def test_tags_and_notes_are_found_and_change_nothing_that_is_sealed(lab, runs, tmp_path):
    name = runs[1].name
    before = {path.name: path.read_bytes() for path in runs[1].iterdir() if path.is_file()}
    assert lab("tag", name, "paper", "fig2").out == "fig2 paper\n"
    assert lab("tag", name, "fig2", "--remove").out == "paper\n"
    assert lab("note", name, "lr of the paper").out == "lr of the paper\n"
    assert listed(lab, "--where", "tag=paper") == [1]
    assert listed(lab, "--where", "note~the paper") == [1]
    assert "paper" in lab("ls").out
    assert "lr of the paper" in lab("show", name).out
    assert before.items() <= {path.name: path.read_bytes() for path in runs[1].iterdir() if path.is_file()}.items()
    assert lab("tag", name, "two words").code == 2
    (runs[1] / "marks.json").write_text('{"tags": 3, "note": []}')
    assert run_rows(runs[1])[0]["tags"] == []


def test_runs_go_with_their_links_and_not_without_a_yes(lab, runs, tmp_path):
    sweep = tmp_path / "outputs" / "sweeps" / "s-12345678"
    sweep.mkdir(parents=True)
    (sweep / "plan.jsonl").write_text("{}\n")
    (sweep / "0-a").symlink_to(runs[0])
    asked = lab("rm", runs[0].name)
    assert (asked.code, runs[0].is_dir()) == (2, True)
    assert "give --yes" in asked.err
    assert "would remove 1 item" in lab("rm", runs[0].name, "--dry-run").out
    assert runs[0].is_dir()
    assert lab("rm", runs[0].name, "--yes").code == 0
    assert not runs[0].exists()
    assert not (sweep / "0-a").is_symlink()
    assert lab("rm", "--where", "state=failed", "--yes").code == 0
    assert listed(lab) == [1, 2]
    assert lab("rm").code == 2


def test_a_run_that_is_used_or_claimed_or_kept_stays(lab, runs, tmp_path):
    with lock_directory(runs[0]):
        refused = lab("rm", runs[0].name, "--yes")
        assert (refused.code, "a process is working in it; nothing was removed" in refused.err) == (3, True)
        assert (
            "checkpoints"
            not in lab("gc", "--keep", "best", "--dry-run", "--yes")
            .out.replace(runs[1].name, "")
            .split(runs[0].name)[-1][:20]
        )
    lab("tag", runs[1].name, "keep")
    assert "tagged keep" in lab("rm", runs[1].name, "--yes").err
    manifest = json.loads((runs[2] / "manifest.json").read_text())
    (runs[2] / "manifest.json").write_text(json.dumps({**manifest, "experiment": "grokking/mlp"}))
    assert "the claims of grokking refer to it" in lab("rm", "--where", "experiment=grokking/mlp", "--yes").err
    lab("gc", "--keep", "best,claimed", "--yes")
    left = [sorted(path.stem for path in (run / "checkpoints").iterdir()) for run in runs]
    everything = ["best", "last", "previous"]
    assert left == [["best"], everything, everything, everything]  # the failed one can be gone on with


def test_gc_keeps_what_is_named_and_keeps_to_a_budget(lab, runs):
    assert "would remove 3 items, 3.0 kB" in lab("gc", "--dry-run").out
    lab("gc", "--yes")
    assert not list(runs[0].glob("checkpoints/previous.pt"))
    assert (runs[0] / "checkpoints" / "last.pt").is_file()
    lab("gc", "--yes", "--budget", "10K")
    left = [len(list(run.glob("checkpoints/*.pt"))) for run in runs]
    assert left[3] == 3
    assert sum(left) < 9
    assert lab("gc", "--keep", "bst").code == 2
    assert "no size, such as 20G" in lab("gc", "--budget", "much").err


def test_a_budget_counts_what_goes_anyway_once(lab, runs, tmp_path):
    outputs = tmp_path / "outputs"
    budget = folder_size(outputs) - 5500  # 3,000 of it are previous.pt of the three finished runs
    assert lab("gc", "--yes", "--budget", str(budget)).code == 0
    assert budget - 1000 < folder_size(outputs) <= budget


def test_the_cache_of_images_is_told_and_emptied(lab, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.safetensors").write_bytes(bytes(5000))
    assert "5.0 kB of decoded images" in lab("gc", "--dry-run").out
    lab("gc", "--cache", "--yes")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_what_gc_leaves_of_a_run_is_scored_and_started_from(lab, tmp_path):
    command = ("train", "model=mlp", "steps=30")
    assert lab(*command).code == 0
    (run,) = {path.parent for path in tmp_path.glob("outputs/runs/**/status.json")}
    lab("gc", "--keep", "best", "--yes")
    assert [path.name for path in (run / "checkpoints").glob("*.pt")] == ["best.pt"]
    assert "done before" in lab(*command).out
    assert lab("eval", str(run)).code == 0
    assert lab("train", "model=mlp", f"weights={run}", "steps=5").code == 0
    (run / "checkpoints" / "best.pt").rename(run / "checkpoints" / "last.pt")
    refused = lab("eval", str(run))
    assert refused.code == 2
    assert "best.pt" in refused.err, "other weights are not scored in their place"


@pytest.mark.slow
def test_a_sweep_is_packed_and_read_elsewhere(lab, tmp_path):
    assert lab("train", "-m", "model=mlp", "seed=0,1", "steps=3").code == 0
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    packed = lab("pack", str(sweep), "sweep.tar.gz")
    assert "sweep.tar.gz: 2 runs" in packed.out
    with tarfile.open(tmp_path / "sweep.tar.gz") as archive:
        members = archive.getmembers()
    assert not any(
        member.name.startswith(("/", "..")) or member.uname or member.linkname.startswith("/") for member in members
    )
    assert lab("pack", str(sweep), "sweep.tar.gz").code == 2
    elsewhere = tmp_path / "elsewhere" / "outputs"
    elsewhere.mkdir(parents=True)
    subprocess.run(["tar", "-xf", str(tmp_path / "sweep.tar.gz"), "-C", str(elsewhere)], check=True)
    rows = run_rows(elsewhere / "sweeps" / sweep.name)
    assert [row["state"] for row in rows] == ["done", "done"]
    assert lab("rm", str(sweep), "--yes").code == 0
    assert not list((tmp_path / "outputs").glob("*/*/*"))


def test_the_rows_of_many_runs_are_read_once_and_no_file_is_trusted_less(tmp_path, monkeypatch):
    from lab.ledger import listing

    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    monkeypatch.setattr(listing, "WORTH_INDEXING", 2)
    runs = [write_run(tmp_path / "runs", {"optimizer.lr": lr}, 0, {"accuracy": lr}) for lr in (0.1, 0.2)]
    runs.append(write_run(tmp_path / "runs", {"optimizer.lr": 9}, 7, None, state="failed"))
    first = run_rows(tmp_path / "runs")
    read = []
    monkeypatch.setattr(listing, "run_row", lambda run: read.append(run.directory) or {"state": "read", "started": 0})
    assert len(run_rows(tmp_path / "runs")) == 3
    assert read == [runs[2]], "only a finished run is kept"
    monkeypatch.undo()
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "WORTH_INDEXING", 2)
    (runs[0] / "results.json").write_text('{"test/accuracy": 0.7654}')
    (runs[1] / "status.json").write_text('{"state": "failed", "error": "x"}')
    rows = {row["dir"]: row for row in run_rows(tmp_path / "runs")}
    assert rows[str(runs[0])]["metrics"] == {"test/accuracy": 0.7654}
    assert rows[str(runs[1])]["state"] == "failed"
    for damage in ("[]", "{", '{"a": 3}'):
        (file,) = (tmp_path / "cache").iterdir()
        file.write_text(damage)
        assert len(run_rows(tmp_path / "runs")) == len(first)
