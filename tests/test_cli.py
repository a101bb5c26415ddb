"""The command line: what a person types, sees and gets back."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lab.record.files import lock_directory
from tests.conftest import only_run, scores

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


def test_the_same_command_is_the_same_run_and_again_runs_it_anew(lab, tmp_path):
    first = lab("train", *QUICK)
    started = time.perf_counter()
    second = lab(*QUICK)  # without the verb
    assert time.perf_counter() - started < 2
    assert second.code == 0
    assert "done before" in second.out
    assert first.out.splitlines()[:3] == second.out.splitlines()[:3]
    anew = lab("train", *QUICK, "again=true")
    runs = sorted(path.parent.name for path in tmp_path.glob("outputs/runs/**/status.json"))
    assert anew.code == 0
    assert len(runs) == 2
    assert len({name[-8:] for name in runs}) == 1
    assert first.out.splitlines()[:3] == anew.out.splitlines()[:3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("optimizer.lrr=3", "no key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("model.hidden=3", "no key 'model.hidden'; there is: channels, num_classes, shape, weights"),
        ("+optimizer.lrr=3", "optimizer.lrr: Adam takes no 'lrr'; did you mean 'lr'?"),
        ("+experimnt=x", "nothing reads the key 'experimnt'; did you mean 'experiment'?"),
        ("modle=mlp", "no key 'modle'; did you mean 'model'?"),
        ("model=mpl", "no option 'mpl' in the group 'model'; did you mean 'mlp'?"),
        (
            "experiment=cifar10/resnet2",
            "no option 'cifar10/resnet2' in the group 'experiment'; did you mean 'cifar10/resnet20'?",
        ),
        ("optimizer.lr=abc", "optimizer.lr='abc' is not a number"),
        ("steps=abc", "steps='abc' is not a whole number or null"),
        ("seed=1.5", "seed=1.5 is not a whole number"),
        ("epochs=0", "epochs=0 is not a positive number"),
        ("final=first", "final 'first' is not best or last"),
        ("monitor=val/acc", "no score 'val/acc' to monitor; did you mean 'val/accuracy'?"),
        ("model=mlp model.hidden=3", "model.hidden=3 is not a list of whole numbers"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9] is not a list of 2 numbers"),
        ("optimizer.lr=null", "optimizer.lr=null is not a number"),
        ("hardware.threads=0", "threads=0 is not a positive number"),
        ("data.batch_size=0", "batch_size 0 is not a positive number"),
        ("optimizer={_target_:torch.optim.LBFGS,_partial_:true}", "takes no 'fused'"),
        ("schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "ReduceLROnPlateau.step needs metrics"),
        ("regularize=early_stop data.val_share=0", "there is no validation set to watch"),
        ("paths.outputs=/dev/null", "cannot write /dev/null"),
        ("model._target_=lab.config.targets.locate", "is not one to be run from a config"),
        ("model._target_=lab.record.environment.run_command", "is not one to be run from a config"),
        ("model._target_=subprocess.run", "is not one to be run from a config"),
        ("model._target_=lab.models.mlp.MPL", "no 'MPL' in lab.models.mlp; did you mean 'MLP'?"),
        ("model._target_=lab.modles.mlp.MLP", "no 'modles' in lab; did you mean 'models'?"),
        ("model._target_=torch.hub.load", "torch.hub.load is not one to be run from a config"),
        ("optimizer._target_=builtins.open", "builtins.open is not one to be run from a config"),
        ("optimizer._partial_=false", "optimizer needs _partial_: true"),
        ("~optimizer", "the config has no group 'optimizer'"),
        ("data=image_folder", "data.folder is missing; give data.folder=..."),
        (
            "data=image_folder data.folder=/nowhere",
            "no folder /nowhere/train; expected is /nowhere/train/<class>/<image>",
        ),
        ("data=cifar10 paths.data=/nowhere", "place train.parquet and test.parquet there"),
        ("model=resnet20 model.weights=nowhere.th", "no weights at nowhere.th; place the file there"),
        ("data.shape=[2,8,8]", "shape [2, 8, 8] is not [1, height, width] (gray) or [3, height, width]"),
        ("model.shape=[1,9,9]", "a batch (float32[64, 1, 8, 8], int64[64]) does not go through the model"),
        ("task.num_classes=9 task.classes=null", "the model gives (144, 10) for 144 examples of 9 classes"),
        ("hardware=cuda", "device 'cuda' is not on this machine"),
        ("finetune_strategy=last_blocks finetune_strategy.num_blocks=9", "num_blocks 9 is not from 0 to 1"),
        ("augment=randaugment augment.magnitude=99", "magnitude 99 is not in [0, 30]"),
        ("x", "cannot read the override 'x': missing EQUAL"),
        ("optimizer.lr=[1", "cannot read the override 'optimizer.lr=[1'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(lab, tmp_path, arguments, said):
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has what the test wants absent")
    ended = lab("train", *arguments.split())
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("outputs/**/*"))


def test_every_problem_is_named_at_once(lab):
    ended = lab("train", "optimizer.lr=abc", "steps=x", "+model.depth=3")
    assert ended.err.splitlines() == [
        "lab: steps='x' is not a whole number or null",
        "lab: model.depth: SimpleCNN takes no 'depth'; there is: channels, num_classes, shape, weights",
        "lab: optimizer.lr='abc' is not a number",
    ]


def test_a_misspelt_command_names_the_nearest(lab):
    ended = lab("trian")
    assert (ended.code, ended.err) == (2, "lab: no command 'trian'; did you mean 'train'?\n")


def test_a_traceback_is_shown_to_who_asks_for_it(lab_process):
    ended = lab_process("train", "optimizer.lrr=3", HYDRA_FULL_ERROR="1")
    assert ended.code == 2
    assert "Traceback" in ended.err


def test_a_loss_that_is_not_finite_makes_the_run_diverged(lab, tmp_path):
    ended = lab("train", "optimizer=sgd", "optimizer.lr=1e30", "steps=60")
    run = only_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert ended.code == 1
    assert status["state"] == "diverged"
    assert "is nan after step" in status["error"]
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_ctrl_c_leaves_a_run_interrupted_and_the_same_command_goes_on(tmp_path, lab_process):
    asked = ["train", "steps=3000", "model=mlp", "save_every=50", "log_every=50", "eval_every=1500"]
    process = subprocess.Popen([sys.executable, "-m", "lab", *asked], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while not list(tmp_path.glob("outputs/runs/**/last.pt")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    run = only_run(tmp_path)
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    ended = lab_process(*asked)
    assert ended.code == 0, ended.err
    whole = lab_process(*asked, "again=true")
    assert ended.out.splitlines()[:6] == whole.out.splitlines()[:6]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "train/loss" in line] == list(range(50, 3001, 50))
    assert len(json.loads((run / "manifest.json").read_text())["segments"]) == 2


def test_a_run_that_another_process_has_is_left_to_it(lab, tmp_path):
    lab("train", *QUICK)
    run = only_run(tmp_path)
    (run / "status.json").unlink()
    with lock_directory(run):
        ended = lab("train", *QUICK)
    assert ended.code == 4
    assert f"process {os.getpid()} is working in" in ended.err


def test_a_directory_of_another_run_is_refused(lab):
    assert lab("train", *QUICK, "hydra.run.dir=here").code == 0
    ended = lab("train", *QUICK, "seed=1", "hydra.run.dir=here")
    assert ended.code == 3
    assert "holds the run" in ended.err


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


def test_hydras_flags_and_directories_work_as_in_any_hydra_app(lab, tmp_path):
    shown = lab("train", "model=mlp", "--cfg", "job")
    assert yaml.safe_load(shown.out)["model"]["_target_"] == "lab.models.mlp.MLP"
    package = lab("train", "--cfg", "job", "--package", "optimizer", "optimizer=adamw")
    assert "AdamW" in package.out
    assert "model: huggingface, mlp, resnet20" in lab("train", "--help").out
    assert "lab" in lab("train", "--info", "searchpath").out
    assert not (tmp_path / "outputs").exists()
    assert lab("train", *QUICK, "hydra.run.dir=elsewhere").code == 0
    assert (tmp_path / "elsewhere" / "status.json").exists()
    assert lab("train", "-m", "seed=0,1", *QUICK, "hydra.sweep.dir=sweep").code == 0
    assert sorted(path.name[:2] for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0-", "1-"]
    assert lab("train", "-m", "model=glob(m*)", *QUICK).code == 0


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


def test_eval_gives_the_scores_of_the_run_and_of_its_overrides(lab, tmp_path):
    ways = {
        "wise_ft": "finetune_strategy=wise_ft",
        "last": ["finetune_strategy=wise_ft", "final=last"],
        "none": "regularize=none",
        "ema": "regularize=ema",
    }
    for name, way in ways.items():
        lab("train", "epochs=4", *([way] if isinstance(way, str) else way), f"hydra.run.dir={name}")
        run = tmp_path / name
        results = json.loads((run / "results.json").read_text())
        assert json.loads(lab("eval", str(run), "--json").out) == pytest.approx(scores(results))
    changed = json.loads(lab("eval", str(run), "--json", "data.val_share=0.5", "hardware=cpu").out)
    assert changed["test/accuracy"] == pytest.approx(results["test/accuracy"])
    assert changed["val/cross_entropy"] != pytest.approx(results["val/cross_entropy"])
    assert (
        lab("eval", str(run), "data.val_shar=0.5").err
        == "lab: no key 'data.val_shar'; did you mean 'data.val_share'?\n"
    )
    checkpoint = run / "checkpoints" / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    ended = lab("eval", str(run))
    assert ended.code == 2
    assert "checkpoints/best.pt changed" in ended.err


def test_runs_are_listed_shown_and_compared(lab, tmp_path):
    lab("train", *QUICK)
    lab("train", *QUICK, "seed=1", "optimizer.lr=0.01")
    rows = json.loads(lab("ls", "--json").out)
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0].keys() == {"id", "dir", "state", "experiment", "overrides", "seed", "metrics", "started", "ended"}
    assert re.search(r"done .* seed=1 optimizer.lr=0.01", lab("ls").out)
    assert "config.optimizer.lr" in lab("show", rows[1]["id"]).out
    compared = lab("diff", rows[0]["dir"], rows[1]["id"]).out
    assert re.search(r"optimizer\.lr +0\.001 +0\.01", compared)
    assert "result: test/accuracy" in compared
    assert "config" not in compared.replace("config.", "")
    assert lab("show", "nothing").code == 2
    assert lab("ls", "nowhere").code == 2


def test_secrets_stay_out_of_a_run(lab, tmp_path):
    ended = lab("train", *QUICK, "+paths.api_key=hunter2")
    assert ended.code == 0, ended.err
    for path in tmp_path.rglob("*"):
        assert "hunter2" not in str(path)
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


def test_a_done_run_whose_results_changed_is_refused(lab, tmp_path):
    lab("train", *QUICK)
    (only_run(tmp_path) / "results.json").write_text("{}")
    ended = lab("train", *QUICK)
    assert ended.code == 3
    assert "results.json changed since" in ended.err


def test_changed_images_are_another_run(lab, tmp_path):
    from tests.test_conf import pictures

    pictures(tmp_path / "flowers")
    asked = ("train", "data=image_folder", "data.folder=flowers", "data.shape=[3,8,8]", "steps=2")
    assert lab(*asked).code == 0
    assert "done before" in lab(*asked).out
    (tmp_path / "flowers" / "train" / "dots" / "0.png").unlink()
    assert "done before" not in lab(*asked).out


def test_a_killed_run_is_not_shown_as_running(tmp_path, lab_process, lab):
    asked = [sys.executable, "-m", "lab", "train", "steps=100000", "model=mlp", "save_every=50"]
    process = subprocess.Popen(asked, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(tmp_path.glob("outputs/runs/**/last.pt")) and time.time() < deadline:
        time.sleep(0.05)
    assert json.loads(lab("ls", "--json").out)[0]["state"] == "running"
    process.kill()
    process.wait()
    assert json.loads(lab("ls", "--json").out)[0]["state"] == "interrupted"


def test_one_wrong_job_keeps_the_whole_sweep_from_starting(lab, tmp_path):
    ended = lab("train", "-m", "optimizer.lr=0.01,abc", "steps=2")
    assert ended.code == 2
    assert ended.err == "lab: optimizer.lr='abc' is not a number (job 1)\n"
    assert not list(tmp_path.glob("outputs/**/*"))


def test_a_sweep_that_does_not_compose_leaves_nothing(lab, tmp_path):
    assert lab("train", "-m", "model=mlp,nope", "steps=2").code == 2
    assert not list(tmp_path.glob("outputs/**/*"))


def test_a_folder_of_the_users_own_is_never_removed(lab, tmp_path):
    (tmp_path / "mine" / "keep").mkdir(parents=True)
    assert lab("train", "optimizer.lr=abc", "paths.outputs=mine/keep").code == 2
    assert lab("train", "optimizer.lr=abc", "hydra.run.dir=.").code == 2
    assert (tmp_path / "mine" / "keep").is_dir()


def test_a_schedule_of_torchs_needs_one_yaml(lab, tmp_path):
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    yaml_file = tmp_path / "conf" / "schedule" / "annealing.yaml"
    yaml_file.write_text("_target_: torch.optim.lr_scheduler.CosineAnnealingLR\n_partial_: true\n")
    assert lab("train", "schedule=annealing", *QUICK, "log_every=1", "hydra.run.dir=run").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/lr"] for line in lines if "train/lr" in line][-1] == pytest.approx(0, abs=1e-9)


def test_a_config_with_a_key_that_it_interpolates_itself_is_scored_again(lab, tmp_path):
    assert lab("train", *QUICK, "model=mlp", "+width=9", "model.hidden=[${width}]", "hydra.run.dir=run").code == 0
    assert lab("eval", "run").code == 0


def test_doctor_says_what_there_is(lab):
    ended = lab("doctor")
    assert ended.code == 0
    assert re.search(r"^torch +\d", ended.out, re.MULTILINE)
    assert re.search(r"^devices .*cpu", ended.out, re.MULTILINE)
    assert re.search(r"^timm +(\d|not installed; only model=timm needs it: pip install timm)", ended.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], {"torch", "hydra", "omegaconf"}),
        (["ls", "."], {"torch", "hydra", "omegaconf"}),
        (["show", "x"], {"torch", "hydra", "omegaconf"}),
        (["diff", "x", "y"], {"torch", "hydra", "omegaconf"}),
        (["train", "--cfg", "job"], {"torch"}),
        (["train", "--help"], {"torch"}),
        (["-sc", "query=bash"], {"torch"}),
    ],
)
def test_what_only_reads_imports_no_torch(tmp_path, arguments, forbidden):
    code = f"""
import sys
sys.argv = ["lab", *{arguments!r}]
from lab.cli.main import main
try:
    main()
except SystemExit:
    pass
sys.stderr.write("imported:" + ",".join(sorted({forbidden!r} & sys.modules.keys())))
"""
    env = {**os.environ, "COMP_LINE": "lab train model=", "COMP_POINT": "16"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("imported:"), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lab tr", {"train"}),
        ("lab train model=", {"model=mlp", "model=resnet20"}),
        ("lab optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("lab train optimizer.l", {"optimizer.lr="}),
        ("lab train experiment=ci", {"experiment=cifar10/resnet20"}),
    ],
)
def test_tab_completes_commands_options_and_keys(lab, monkeypatch, line, expected):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert expected <= set(lab("-sc", "query=bash").out.split())
