"""A sweep: planned once, continued, shared, retried, stopped when its code changes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import TIMEOUT, finish, start_lab
from tests.project import wait_for

QUICK = ("model=mlp", "steps=4")


def sweep_of(root: Path) -> Path:
    (directory,) = (root / "outputs" / "sweeps").iterdir()
    return directory


def states(root: Path) -> dict[str, str]:
    return {p.parent.name: json.loads(p.read_text())["state"] for p in root.glob("outputs/runs/**/status.json")}


def test_a_plan_lists_the_jobs_and_starts_nothing(lab, tmp_path):
    lab("train", *QUICK, "optimizer.lr=0.1", "seed=1")
    before = states(tmp_path)
    planned = lab("plan", "-m", *QUICK, "optimizer.lr=0.1,0.2", "seed=1,1,2")
    assert planned.code == 0, planned.err
    assert states(tmp_path) == before
    assert not (tmp_path / "outputs" / "sweeps").exists()
    lines = planned.out.splitlines()
    assert re.match(r"0 +done +[0-9a-f]{8} +optimizer.lr=0.1 seed=1 ", lines[1])
    assert re.match(r"1 +same as 0 ", lines[2])
    assert re.match(r"2 +new ", lines[3])
    assert "6 jobs: 1 done, 2 the same as another, 3 new" in planned.out
    assert re.search(r"digits mlp: 3 jobs, 9,610 parameters, 9,610 trained; 2\.59 MFLOPs a step; 236 kB", planned.out)


@pytest.mark.slow
def test_only_what_is_missing_is_done_and_a_wider_sweep_shares_the_rest(lab, tmp_path):
    first = lab("train", "-m", *QUICK, "optimizer.lr=0.1,0.2")
    assert first.code == 0, first.err
    assert "2 done" in first.out
    started = time.process_time()
    again = lab("train", "-m", *QUICK, "optimizer.lr=0.1,0.2")
    assert time.process_time() - started < 2
    assert (again.code, again.err) == (0, "")
    assert again.out == first.out
    wider = lab("train", "-m", *QUICK, "optimizer.lr=0.1,0.2,0.3")
    assert re.findall(r"^\[(.*?)\]", wider.err, re.MULTILINE) == ["1/1"]
    assert len(states(tmp_path)) == 3
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 2
    other_spelling = lab("train", "-m", *QUICK, "epochs=20", "optimizer.lr=choice(0.1,0.2)")
    assert other_spelling.err == ""
    assert len(states(tmp_path)) == 3


def test_a_sweep_ends_with_a_table_best_first_and_a_link_to_each_run(lab, tmp_path):
    ended = lab("train", "-m", "model=mlp", "steps=30", "optimizer.lr=0.0001,0.01", "seed=0,1")
    sweep = sweep_of(tmp_path)
    assert {path.name[:2] for path in sweep.iterdir() if path.is_symlink()} == {"0-", "1-", "2-", "3-"}
    with open(sweep / "table.csv") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["val/accuracy"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["optimizer.lr"] for row in rows[:2]} == {"0.01"}
    assert f"best: {rows[0]['directory']}" in ended.out
    assert (sweep / "table.md").read_text().count("\n") == 6
    header = "| n | optimizer.lr | seed | state | val/accuracy | test/accuracy | gap/accuracy | seconds | id |"
    assert (sweep / "table.md").read_text().splitlines()[0] == header
    assert {"train/accuracy", "gap/cross_entropy", "test/top5", "hardware/steps_per_s"} <= rows[0].keys()
    lines = (sweep / "plan.jsonl").read_text().splitlines()
    assert [line["job"] for line in map(json.loads, lines) if "job" in line] == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_supervisor_imports_no_torch(tmp_path):
    code = """
import sys
sys.argv = ["lab", "train", "-m", "model=mlp", "steps=2", "seed=0,1"]
from lab.cli.main import main
if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    assert "torch" not in sys.modules
"""
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(states(tmp_path).values()) == {"done"}


def test_what_hydra_cannot_say_comes_from_an_experiment(lab, tmp_path):
    (tmp_path / "experiments" / "mine").mkdir(parents=True)
    (tmp_path / "experiments" / "mine" / "zipped.yaml").write_text(
        "sweep:\n"
        "  - zip: {model: [mlp, simple_cnn], optimizer.lr: [0.01, 0.001]}\n"
        "    grid: {seed: [0, 1]}\n"
        "    exclude: [{model: mlp, seed: 1}]\n"
        "  - grid: {optimizer: sgd, seed: range(2)}\n"
        "steps: 3\n"
    )
    ended = lab("train", "-m", "experiment=mine/zipped")
    assert ended.code == 0, ended.err
    with open(sweep_of(tmp_path) / "table.csv") as file:
        rows = sorted(
            (row["model"], row["optimizer.lr"], row["optimizer"], row["seed"]) for row in csv.DictReader(file)
        )
    assert rows == [
        ("", "", "sgd", "0"),
        ("", "", "sgd", "1"),
        ("mlp", "0.01", "", "0"),
        ("simple_cnn", "0.001", "", "0"),
        ("simple_cnn", "0.001", "", "1"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("on_error=halt", "on_error=halt is not continue or stop"),
        ("max_retries=-1", "max_retries=-1 is not a number from 0 on"),
        ("oom=grow", "oom=grow is not fail or shrink"),
        ("hydra.launcher.workers=0", "hydra.launcher.workers=0 is not a positive whole number"),
        ("hydra.launcher.isolation=vm", "isolation=vm is not worker or process"),
        ("model.hidden=[8],abc", "model.hidden='abc' is not a list of whole numbers (job 1)"),
        ("optimizer.lr=interval(0,1)", "is continuous; give search=tpe, or a list of values"),
        ("regularize=ema regularize.decay=0.9,1.5", "decay 1.5 is not in [0, 1) (job 1)"),
        ("optimizer=sgd,adamw optimizer.momentum=0.9", "no key 'optimizer.momentum'"),
        ("optimizer.lr=0.1,-1", "Invalid learning rate: -1"),
        ("search=tpe", "there is nothing to search; give an axis"),
        ("search=tpe search.trials=0 optimizer.lr=interval(0.1,1)", "search.trials=0 is not a number from 1 on"),
        ("search=tpa optimizer.lr=interval(0.1,1)", "no option 'tpa' in the group 'search'"),
    ],
)
def test_what_is_wrong_with_any_job_is_said_before_the_first(lab, tmp_path, arguments, message):
    ended = lab("train", "-m", "model=mlp", *arguments.split())
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("outputs/**/*"))


def test_a_swept_group_may_have_keys_that_the_default_option_lacks(lab, tmp_path):
    ended = lab("train", "-m", *QUICK, "optimizer=sgd,muon", "optimizer.momentum=0.5")
    assert ended.code == 0, ended.err
    assert set(states(tmp_path).values()) == {"done"}


@pytest.mark.slow
def test_resume_carries_on_what_was_planned_whatever_the_yaml_says_by_now(tmp_path, lab_process):
    app = Path(shutil.copytree(ROOT / "tests" / "apps" / "spirals", tmp_path / "app"))
    command = ["-m", "experiment=spirals/three", "steps=3000", "save_every=100", "seed=0,1"]
    process = start_lab("train", *command, cwd=app)
    wait_for(lambda: list(app.glob("outputs/runs/**/last.pt")))
    process.kill()
    process.communicate(timeout=TIMEOUT)
    recipe = app / "experiments" / "spirals" / "three.yaml"
    recipe.write_text(recipe.read_text() + "\nmax_norm: 0.5\n")
    sweep = sweep_of(app)
    ended = lab_process("resume", str(sweep.relative_to(app)), cwd=app)
    assert ended.code == 0, ended.err
    assert "2 done" in ended.out
    assert len(states(app)) == 2
    for path in app.glob("outputs/runs/**/config.yaml"):
        assert "max_norm: null" in path.read_text()
    source = app / "spirals.py"
    source.write_text(source.read_text() + "\n# another thought\n")
    for path in app.glob("outputs/runs/**/status.json"):
        path.write_text(path.read_text().replace('"done"', '"interrupted"'))
    refused = lab_process("resume", str(sweep.relative_to(app)), cwd=app)
    assert refused.code == 3
    assert "the code changed since" in refused.err


def test_a_plan_from_elsewhere_writes_nothing_outside_its_outputs(lab, tmp_path):
    lab("train", "-m", *QUICK, "seed=0,1")
    plan = sweep_of(tmp_path) / "plan.jsonl"
    plan.write_text(plan.read_text().replace('"../../runs/train/', '"../../../somewhere/else/'))
    refused = lab("resume", str(sweep_of(tmp_path)))
    assert refused.code == 3
    assert "outside" in refused.err
    assert not (tmp_path / "somewhere").exists()


@pytest.mark.slow
def test_a_sweep_stops_where_its_code_changes_below_it(tmp_path, lab_process):
    app = Path(shutil.copytree(ROOT / "tests" / "apps" / "spirals", tmp_path / "app"))
    command = ["-m", "experiment=spirals/three", "steps=400", "seed=range(12)", "hydra.launcher.workers=1"]
    process = start_lab("train", *command, cwd=app)
    wait_for(lambda: list(app.glob("outputs/runs/**/results.json")))
    source = app / "spirals.py"
    source.write_text(source.read_text() + "\n# another thought\n")
    stopped = finish(process)
    assert stopped.code == 3
    assert "spirals changed since the sweep was planned" in stopped.err
    assert 0 < len(states(app)) < 12


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_takes_more_trials(lab, tmp_path):
    command = ["-m", "search=tpe", *QUICK, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "search.seeds=[0,1]"]
    first = lab("train", *command, "search.trials=2")
    assert first.code == 0, first.err
    assert len(states(tmp_path)) == 4
    assert re.search(r"best trial: \d  optimizer.lr=\S+  val/accuracy \d", first.out)
    more = lab("train", *command, "search.trials=3")
    assert more.code == 0
    assert len(re.findall(r"^\[\d/2\]", more.err, re.MULTILINE)) == 2
    assert len(states(tmp_path)) == 6
    resumed = lab("resume", str(sweep_of(tmp_path)))
    assert (resumed.code, resumed.err) == (0, "")


@pytest.mark.slow
def test_asha_stops_bad_runs_early_and_calls_that_no_failure(lab, tmp_path):
    axes = ["optimizer.lr=tag(log,interval(1e-6,1e-1))", "search.trials=9", "search.min_resource=20"]
    command = ["-m", "search=asha", "model=mlp", "steps=120", "eval_every=20", "search.reduction_factor=3", *axes]
    ended = lab("train", *command, "hydra.launcher.workers=1")
    assert ended.code == 0, ended.err
    assert "stopped early by asha after step" in ended.err
    assert re.search(r"\d done, \d stopped early", ended.out)
    assert "interrupted" in states(tmp_path).values()


def test_check_finds_a_config_fine_or_says_what_is_wrong(lab, tmp_path):
    fine = lab("check", "model=mlp")
    assert fine.code == 0, fine.err
    assert "nothing is wrong; nothing was started" in fine.out
    wrong = lab("check", "-m", "model=mlp", "optimizer.lr=0.1,abc")
    assert wrong.code == 2
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_check_resume_proves_it_on_ones_own_config(lab, tmp_path):
    proved = lab("check", "--resume", "model=mlp", "model.dropout=0.1", "regularize=ema")
    assert proved.code == 0, proved.err
    assert "ends in the same bits" in proved.out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_run_alone_is_resumed_by_its_directory(lab, tmp_path, lab_process):
    ended = lab_process("train", "model=mlp", "steps=100000", "time_limit=1")
    assert ended.code == 75
    assert "time_limit reached after step" in ended.err
    (run,) = {path.parent for path in tmp_path.glob("outputs/runs/**/status.json")}
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    config = (run / "config.yaml").read_text()
    assert "time_limit: 1" in config
    again = lab_process("resume", str(run))
    assert again.code == 75
    assert len(json.loads((run / "manifest.json").read_text())["segments"]) == 2
    assert os.listdir(tmp_path) == ["outputs"]


def test_a_sweep_goes_on_when_nobody_reads_what_it_says(tmp_path):
    process = start_lab("train", "-m", "model=mlp", "steps=3", "seed=0,1,2,3", cwd=tmp_path, stderr=subprocess.STDOUT)
    with process:
        assert process.stdout
        process.stdout.readline()  # as `head -1` does, and then the pipe is closed
    wait_for(lambda: list(states(tmp_path).values()) == ["done"] * 4)


def test_a_secret_that_is_swept_is_shown_nowhere(lab, tmp_path):
    ended = lab("train", "-m", *QUICK, "+paths.api_key=hunter2,hunter3")
    assert ended.code == 0, ended.err
    assert "hunter" not in ended.out + ended.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter" not in path.read_bytes(), path


def test_a_directory_that_holds_another_sweep_is_refused(lab, tmp_path):
    assert lab("train", "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=here").code == 0
    refused = lab("train", "-m", *QUICK, "seed=2,3", "hydra.sweep.dir=here")
    assert refused.code == 3
    assert "holds another sweep" in refused.err
    assert lab("train", "-m", *QUICK, "seed=0,1,2", "hydra.sweep.dir=here").code == 0


def test_an_objective_that_no_run_has_is_refused(lab, tmp_path):
    command = ["-m", "search=random", *QUICK, "optimizer.lr=interval(0.1,0.2)", "search.objective=val/acuracy"]
    refused = lab("train", *command)
    assert refused.code == 2
    assert "did you mean 'val/accuracy'" in refused.err
    assert not (tmp_path / "outputs").exists()


def test_a_worker_has_the_threads_of_a_run_that_is_no_part_of_a_sweep(monkeypatch):
    from lab.sweep import pool

    monkeypatch.setattr(pool, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [pool.threads_per_worker(workers) for workers in (1, 3, 20)] == [8, 2, 1]
    for given in ("3", "3,2"):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert [pool.threads_per_worker(workers) for workers in (1, 3, 20)] == [3, 3, 3]


def test_a_tables_cells_are_text_in_markdown_and_no_formulas_in_a_spreadsheet(tmp_path):
    from lab.sweep.table import Table

    rows = [[0, "<script>alert(1)</script>", "a|b\n`c`"], [1, "=1+2", "\x1b[31m"], [2, "-0.5", "-x"]]
    table = Table(["n", "key", "@note"], rows, None, ["n", "key", "@note"])
    table.write(tmp_path)
    markdown = (tmp_path / "table.md").read_text().splitlines()
    assert markdown[2] == "| 0 | &lt;script>alert(1)&lt;/script> | a\\|b\\n\\`c\\` |"
    assert markdown[3] == "| 1 | =1+2 | \\x1b[31m |"
    lines = (tmp_path / "table.csv").read_text()
    assert "1,'=1+2,\x1b[31m" in lines
    assert "2,-0.5,'-x" in lines
    assert "n,key,'@note" in lines


def test_what_a_terminal_would_obey_is_shown_instead(capsys):
    from lab.cli.output import align_columns
    from lab.errors import ConfigError, report_error

    report_error(ConfigError("no \x1b]0;title\x07 \u202e and\nmore"))
    assert capsys.readouterr().err == "lab: no \\x1b]0;title\\x07 \\u202e and\nmore\n"
    assert align_columns([["a\x1b[2J", "b\nc"]]) == "a\\x1b[2J  b\\nc"
