"""What the command line refuses, and what it then says."""

import os
import re

import pytest

from lab.record.files import lock_directory
from tests.conftest import only_run

QUICK = ("epochs=1",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optimizer.lrr=3", "no key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("model.hidden=3", "no key 'model.hidden'; there is: channels, num_classes, shape, weights"),
        ("modle=mlp", "no key 'modle'; did you mean 'model'?"),
        ("model=mpl", "no option 'mpl' in the group 'model'; did you mean 'mlp'?"),
        (
            "experiment=cifar10/resnet2",
            "no option 'cifar10/resnet2' in the group 'experiment'; did you mean 'cifar10/resnet20'?",
        ),
        ("optimizer.lr=abc", "optimizer.lr='abc' is not a number"),
        ("epochs=0", "epochs=0 is not a positive number"),
        ("final=first", "final 'first' is not best or last"),
        ("monitor=val/acc", "no score 'val/acc' to monitor; did you mean 'val/accuracy'?"),
        ("hardware.threads=0", "threads=0 is not a positive number"),
        ("data.batch_size=0", "batch_size 0 is not a positive number"),
        ("schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "ReduceLROnPlateau.step needs metrics"),
        ("regularize=early_stop data.val_share=0", "there is no validation set to watch"),
        ("paths.outputs=/dev/null", "cannot write /dev/null"),
        ("~optimizer", "the config has no group 'optimizer'"),
        ("data=image_folder", "data.folder is missing; give data.folder=..."),
        (
            "data=image_folder data.folder=/nowhere",
            "no folder /nowhere/train; expected is /nowhere/train/<class>/<image>",
        ),
        ("data=cifar10 paths.data=/nowhere", "place train.parquet and test.parquet there"),
        ("model=resnet20 model.weights=nowhere.th", "no weights at nowhere.th; place the file there"),
        ("data.shape=[2,8,8]", "shape [2, 8, 8] is not [1, height, width] (gray) or [3, height, width]"),
        ("model.shape=[1,9,9]", "the model cannot process a batch of (float32[64, 1, 8, 8], int64[64])"),
        ("task.num_classes=9 task.classes=null", "the model gives (144, 10) for 144 examples of 9 classes"),
        ("hardware=cuda", "device 'cuda' is not on this machine"),
        ("finetune_strategy=last_blocks finetune_strategy.num_blocks=9", "num_blocks 9 is not from 0 to 1"),
        ("augment=randaugment augment.magnitude=99", "magnitude 99 is not in [0, 30]"),
        ("~data.num_classes", "reads data.num_classes, which the chosen data does not tell; write `num_classes: ...`"),
        ("search=tpe model=mlp", "for all of its runs: lab train -m search=tpe model=mlp"),
        ("+model=mlp", "model has an option already; give model=mlp, without the +"),
        ("x", "cannot read the override 'x': missing EQUAL"),
        ("optimizer.lr=[1", "cannot read the override 'optimizer.lr=[1'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(lab, tmp_path, arguments, message):
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has what the test wants absent")
    ended = lab("train", *arguments.split())
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("outputs/**/*"))


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            "seed=1.5 steps=x model=mlp model.hidden=3 optimizer.lr=abc optimizer.betas=[0.9] +optimizer.lrr=3",
            [
                "seed=1.5 is not a whole number",
                "steps='x' is not a whole number or null",
                "model.hidden=3 is not a list of whole numbers",
                "data.seed=1.5 is not a whole number",
                "optimizer.lr='abc' is not a number",
                "optimizer.betas=[0.9] is not a list of 2 numbers",
                "optimizer.lrr: Adam takes no 'lrr'; did you mean 'lr'?",
            ],
        ),
        (
            "+experimnt=x +model.depth=3 schedule._partial_=false optimizer.lr=null",
            [
                "nothing reads the key 'experimnt'; did you mean 'experiment'?",
                "model.depth: SimpleCNN takes no 'depth'; there is: channels, num_classes, shape, weights",
                "optimizer.lr=null is not a number",
                "schedule needs _partial_: true; the runner supplies the arguments that the config cannot",
            ],
        ),
    ],
)
def test_every_problem_is_named_at_once(lab, tmp_path, arguments, problems):
    ended = lab("train", *arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [f"lab: {problem}" for problem in problems]
    assert not list(tmp_path.glob("outputs/**/*"))


@pytest.mark.parametrize(
    ("key", "refusals"),
    [
        (
            "model._target_",
            {
                "lab.config.targets.locate": "is not one to be run from a config",
                "lab.record.environment.run_command": "is not one to be run from a config",
                "subprocess.run": "is not one to be run from a config",
                "torch.hub.load": "is not one to be run from a config",
                "lab.models.mlp.MPL": "no 'MPL' in lab.models.mlp; did you mean 'MLP'?",
                "lab.modles.mlp.MLP": "no 'modles' in lab; did you mean 'models'?",
            },
        ),
        (
            "optimizer._target_",
            {"builtins.open": "is not one to be run from a config", "torch.optim.LBFGS": "LBFGS takes no 'fused'"},
        ),
    ],
)
def test_what_is_no_target_of_its_group_is_not_run(lab, tmp_path, key, refusals):
    ended = lab("train", "-m", f"{key}={','.join(refusals)}")
    assert ended.code == 2
    for number, (target, message) in enumerate(refusals.items()):
        lines = [line for line in ended.err.splitlines() if line.endswith(f"(job {number})")]
        assert any(message in line and target.rpartition(".")[2] in line for line in lines), ended.err
    alone = lab("train", f"{key}={next(iter(refusals))}")
    assert alone.code == 2
    assert "is not one to be run from a config" in alone.err
    assert not list(tmp_path.glob("outputs/**/*"))


def test_a_misspelt_command_names_the_nearest(lab):
    ended = lab("trian")
    assert (ended.code, ended.err) == (2, "lab: no command 'trian'; did you mean 'train'?\n")


def test_a_traceback_is_shown_to_who_asks_for_it(lab_process):
    ended = lab_process("train", "optimizer.lrr=3", HYDRA_FULL_ERROR="1")
    assert ended.code == 2
    assert "Traceback" in ended.err


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


def test_a_directory_of_another_run_is_refused(lab):
    assert lab("train", *QUICK, "hydra.run.dir=here").code == 0
    ended = lab("train", *QUICK, "seed=1", "hydra.run.dir=here")
    assert ended.code == 3
    assert "holds the run" in ended.err


def test_a_done_run_whose_results_changed_is_refused(lab, tmp_path):
    lab("train", *QUICK)
    (only_run(tmp_path) / "results.json").write_text("{}")
    ended = lab("train", *QUICK)
    assert ended.code == 3
    assert "results.json changed since" in ended.err


def test_a_run_that_another_process_has_is_left_to_it(lab, tmp_path):
    lab("train", *QUICK)
    run = only_run(tmp_path)
    (run / "status.json").unlink()
    with lock_directory(run):
        ended = lab("train", *QUICK)
    assert ended.code == 4
    assert f"process {os.getpid()} is working in" in ended.err


def test_an_experiment_that_is_a_sweep_is_no_single_run_and_one_that_is_broken_harms_no_other(lab, tmp_path):
    (tmp_path / "experiments").mkdir()
    for name, text in {
        "grid": "sweep: {grid: {seed: [0, 1]}}",
        "wip": "model:\n\thidden: [3]",
        "list": "- 1",
        "draft": "defaults:\n  - override /debug: overfit",
        "twice": "defaults:\n  - /model: mlp",
        "odd": "defaults:\n  - override /modle: mlp",
    }.items():
        (tmp_path / "experiments" / f"{name}.yaml").write_text(text)
    for name, message in {
        "grid": "lab train -m experiment=grid; for a single run: lab train experiment=grid sweep=null",
        "wip": "experiments/wip.yaml cannot be read: while scanning for the next token",
        "list": "experiments/list.yaml is a list",
        "draft": "experiment/draft cannot choose an option of debug, which is composed after it; give debug=...",
        "twice": "write the second as: override /model: mlp",
        "odd": "experiment/odd: no group 'modle' to override; did you mean 'model'?",
    }.items():
        ended = lab("train", f"experiment={name}")
        assert ended.code == 2, name
        assert message in ended.err, name
        assert "Traceback" not in ended.err
    assert lab("train", "experiment=grid", "sweep=null", "debug=two_steps").code == 0


def test_a_value_of_the_wrong_type_is_found_among_many_of_the_right_one(lab):
    """Nodes that differ in floats alone are checked once; others are not taken for them."""
    decay = "optimizer.weight_decay=0.1,0.2,0.3,[0.4],null,0.5,x"
    ended = lab("plan", "-m", "model=mlp", "optimizer=adamw", decay, "optimizer.lr=0.1,0.2", "steps=2")
    assert ended.code == 2
    wrong = sorted(set(re.findall(r"optimizer\.weight_decay=(\S+) is not", ended.err)))
    assert wrong == ["'x'", "[0.4]", "null"]
