"""The command line: what a person types, sees and gets back."""

import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from omegaconf.errors import OmegaConfBaseException

from lab.cli import main
from lab.errors import EXIT_INTERRUPTED
from lab.train.stop import StopSignal
from tests.conftest import only_run
from tests.processes import TIMEOUT, finish, start_lab
from tests.project import wait_for

QUICK = ("epochs=1",)
FILES = {
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "results.json",
    "status.json",
}


def test_the_main_job_trains_the_digits_and_leaves_a_run_to_trust(lab, tmp_path):
    ended = lab("train")
    run = only_run(tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].endswith(f"look at it with: tensorboard --logdir {run.relative_to(tmp_path)}")
    results = json.loads((run / "results.json").read_text())
    assert results["test/accuracy"] >= 0.96
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} >= FILES
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["id"] == run.name[-8:] == json.loads((run / "status.json").read_text())["id"]
    assert manifest["seeds"].keys() == {"init", "split", "order", "augment", "dropout"}
    assert manifest["packages"]["torch"]
    assert yaml.safe_load((run / "config.yaml").read_text())["task"]["num_classes"] == 10


def test_the_end_of_a_run_prints_the_scores_that_matter_in_a_few_lines(lab, tmp_path):
    lines = lab("train", *QUICK).out.splitlines()
    assert len(lines) <= 7
    assert lines[0].startswith("test/accuracy ")
    assert {"val/accuracy", "gap/accuracy"} <= {line.split()[0] for line in lines}
    silent = lab("train", "model=mlp", "steps=2", "logger=none").out
    assert "tensorboard" not in silent, "there are no events to look at"
    swept = lab("train", "-m", "model=mlp", "steps=2", "logger=none", "seed=0,1")
    assert "tensorboard" not in swept.out


def test_the_same_command_is_the_same_run_and_again_runs_it_anew(lab, tmp_path):
    first = lab("train", *QUICK)
    started = time.process_time()
    second = lab(*QUICK)  # without the verb
    assert time.process_time() - started < 2
    assert second.code == 0
    assert "done before" in second.out
    assert first.out.splitlines()[:3] == second.out.splitlines()[:3]
    anew = lab("train", *QUICK, "again=true")
    runs = sorted(path.parent.name for path in tmp_path.glob("outputs/runs/**/status.json"))
    assert anew.code == 0
    assert len(runs) == 2
    assert len({name[-8:] for name in runs}) == 1
    assert first.out.splitlines()[:3] == anew.out.splitlines()[:3]


def test_a_loss_that_is_not_finite_makes_the_run_diverged(lab, tmp_path):
    ended = lab("train", "optimizer=sgd", "optimizer.lr=1e30", "steps=60")
    run = only_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert ended.code == 1
    assert status["state"] == "diverged"
    assert "is nan after step" in status["error"]
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_ctrl_c_that_is_lost_in_code_which_catches_errors_ends_the_command_before_it_trains(monkeypatch, capsys):
    trained = []

    def command(arguments):
        with suppress(OmegaConfBaseException):
            try:
                signal.raise_signal(signal.SIGINT)
            finally:  # as OmegaConf's own, on a list that is half built
                raise OmegaConfBaseException
        with StopSignal().signals(keyboard=True):
            trained.append(arguments)
        return 0

    monkeypatch.setattr(main, "import_module", lambda name: SimpleNamespace(main=command))
    assert main.call_verb("train", []) == EXIT_INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    assert not trained
    with StopSignal().signals(keyboard=True):  # it counted for that command alone
        pass


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_interrupted_and_the_same_command_goes_on(tmp_path, lab_process):
    command = ["train", "steps=3000", "model=mlp", "save_every=50", "log_every=50", "eval_every=1500"]
    process = start_lab(*command, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("outputs/runs/**/last.pt")))
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    run = only_run(tmp_path)
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    ended = lab_process(*command)
    assert ended.code == 0, ended.err
    whole = lab_process(*command, "again=true")
    assert ended.out.splitlines()[:6] == whole.out.splitlines()[:6]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "train/loss" in line] == list(range(50, 3001, 50))
    assert len(json.loads((run / "manifest.json").read_text())["segments"]) == 2


def test_a_sweep_is_one_directory_a_run_and_one_row_a_run(lab, tmp_path):
    ended = lab("train", "-m", "optimizer.lr=0.001,0.01", "seed=range(2)", *QUICK)
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    links = sorted(path for path in sweep.iterdir() if path.is_symlink())
    assert ended.code == 0, ended.err
    assert [link.name[:2] for link in links] == ["0-", "1-", "2-", "3-"]
    assert {link.resolve().parent for link in links} == {tmp_path / "outputs" / "runs" / "train"}
    assert all(link.name[-8:] == link.resolve().name[-8:] for link in links)
    assert len(list(tmp_path.glob("outputs/runs/**/status.json"))) == 4
    rows = json.loads(lab("ls", str(sweep), "--json").out)
    assert sorted((row["overrides"][0], row["seed"]) for row in rows) == [
        (f"optimizer.lr={lr}", seed) for lr in (0.001, 0.01) for seed in (0, 1)
    ]
    session, columns = hparams(sweep)
    assert len(session) == 4
    assert columns == {"optimizer.lr", "seed"}
    assert "test/accuracy" in ended.out


def hparams(sweep: Path) -> tuple[list, set[str]]:
    """The rows and the columns that TensorBoard shows of a sweep."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(sweep)).Reload()
    plugin = multiplexer.PluginRunToTagToContent("hparams")
    rows = [run for run, tags in plugin.items() if "_hparams_/session_start_info" in tags]
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data

    experiment = parse_experiment_plugin_data(plugin["."]["_hparams_/experiment"])
    return rows, {info.name for info in experiment.hparam_infos}


def test_one_bad_run_does_not_stop_a_sweep(lab, tmp_path):
    ended = lab("train", "-m", "optimizer=sgd", "optimizer.lr=1e30,0.1", *QUICK)
    states = sorted(json.loads(p.read_text())["state"] for p in tmp_path.glob("outputs/runs/**/status.json"))
    assert ended.code == 1
    assert states == ["diverged", "done"]


def test_debug_options_do_what_they_say(lab, tmp_path):
    assert lab("train", "debug=overfit", "hydra.run.dir=overfit").code == 0
    lines = [json.loads(line) for line in (tmp_path / "overfit" / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "train/loss" in line][-1]["train/loss"] < 0.05
    assert lab("train", "debug=profile", "hydra.run.dir=profile").code == 0
    trace = json.loads((tmp_path / "profile" / "trace.pt.trace.json").read_text())
    assert any("addmm" in event.get("name", "") for event in trace["traceEvents"])
    assert lab("train", "debug=two_steps", "hydra.run.dir=two").code == 0
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "train/loss" in line] == [1, 2]


def test_secrets_stay_out_of_a_run(lab, tmp_path):
    ended = lab("train", *QUICK, "+paths.api_key=hunter2")
    assert ended.code == 0, ended.err
    for path in tmp_path.rglob("*"):
        assert "hunter2" not in str(path)
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


def test_changed_images_are_another_run(lab, tmp_path):
    from tests.test_conf import pictures

    pictures(tmp_path / "flowers")
    command = ("train", "data=image_folder", "data.folder=flowers", "data.shape=[3,8,8]", "steps=2")
    assert lab(*command).code == 0
    assert "done before" in lab(*command).out
    (tmp_path / "flowers" / "train" / "dots" / "0.png").unlink()
    assert "done before" not in lab(*command).out


def test_a_killed_run_is_not_shown_as_running(tmp_path, lab):
    process = start_lab("train", "steps=100000", "model=mlp", "save_every=50", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("outputs/runs/**/last.pt")))
    assert json.loads(lab("ls", "--json").out)[0]["state"] == "running"
    process.kill()
    process.communicate(timeout=TIMEOUT)
    assert json.loads(lab("ls", "--json").out)[0]["state"] == "interrupted"


def test_a_schedule_of_torchs_needs_one_yaml(lab, tmp_path):
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    yaml_file = tmp_path / "conf" / "schedule" / "annealing.yaml"
    yaml_file.write_text("_target_: torch.optim.lr_scheduler.CosineAnnealingLR\n_partial_: true\n")
    assert lab("train", "schedule=annealing", *QUICK, "log_every=1", "hydra.run.dir=run").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/lr"] for line in lines if "train/lr" in line][-1] == pytest.approx(0, abs=1e-9)
