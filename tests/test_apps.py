"""A project of one's own, one YAML and one file a thing, from an editable install and from a wheel."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, only_run


@pytest.fixture
def spirals(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "tests" / "apps" / "spirals", tmp_path / "spirals"))


@pytest.mark.slow
def test_a_users_project_runs_from_its_own_directory(spirals, lab_process):
    ended = lab_process("train", "data=spirals", "model=sines", "optimizer.lr=0.01", cwd=spirals, new=True)
    assert ended.code == 0, ended.err
    assert json.loads((only_run(spirals) / "results.json").read_text())["test/accuracy"] > 0.95


def test_a_users_experiment_stands_beside_ours(spirals, lab_process):
    ended = lab_process("train", "experiment=spirals/three", "epochs=2", cwd=spirals)
    assert ended.code == 0, ended.err
    run = only_run(spirals)
    assert run.parent == spirals / "outputs" / "runs" / "spirals" / "three"
    ended = lab_process("train", "experiment=spirals/tree", cwd=spirals)
    assert "did you mean 'spirals/three'" in ended.err


@pytest.mark.slow
def test_a_change_of_the_projects_code_is_another_run(spirals, lab_process):
    command = ("train", "experiment=spirals/three", "steps=2")
    assert lab_process(*command, cwd=spirals).code == 0
    assert "done before" in lab_process(*command, cwd=spirals).out
    source = spirals / "spirals.py"
    source.write_text(source.read_text().replace("nn.Tanh()", "nn.GELU()"))
    assert "done before" not in lab_process(*command, cwd=spirals).out
    assert len(list(spirals.glob("outputs/runs/**/status.json"))) == 2


def test_a_broken_project_file_is_named(spirals, lab_process):
    (spirals / "spirals.py").write_text("import nothing_of_the_kind\n")
    ended = lab_process("train", "data=spirals", "model=sines", cwd=spirals)
    assert ended.code == 2
    assert "importing it failed: No module named 'nothing_of_the_kind'" in ended.err


@pytest.mark.parametrize("augmentation", ["flip_crop", "randaugment", "mixup", "cutmix", "chain"])
def test_masks_are_not_trained_on_with_an_augmentation_that_would_move_the_images_alone(lab, tmp_path, augmentation):
    shutil.copytree(ROOT / "tests" / "apps" / "masks", tmp_path, dirs_exist_ok=True)
    arguments = ("data=masks", "model=pixel_classes", "task=segmentation", "monitor=val/pixel_accuracy", "steps=2")
    ended = lab("train", *arguments, f"augment={augmentation}")
    assert ended.code == 2, ended.out
    assert "got int64[16, 8, 8]; give augment=none, or augment=boxes_and_masks, which moves both" in ended.err
    assert not list(tmp_path.glob("outputs/runs/**/metrics.jsonl")), "it trained"


def test_masks_are_trained_on_without_augmentation(lab, tmp_path):
    shutil.copytree(ROOT / "tests" / "apps" / "masks", tmp_path, dirs_exist_ok=True)
    arguments = ("data=masks", "model=pixel_classes", "task=segmentation", "monitor=val/pixel_accuracy")
    ended = lab("train", *arguments, "optimizer.lr=0.1", "epochs=5")
    assert ended.code == 0, ended.err
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    assert results["test/pixel_accuracy"] > 0.95
    assert results["test/iou"] == pytest.approx((results["test/iou/0"] + results["test/iou/1"]) / 2)


def test_masks_move_with_their_images(lab, tmp_path):
    shutil.copytree(ROOT / "tests" / "apps" / "masks", tmp_path, dirs_exist_ok=True)
    assert lab("train", "experiment=squares/segmentation", "hydra.run.dir=run").code == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test/iou"] > 0.85
    arguments = ("data=masks", "model=pixel_classes", "task=segmentation", "monitor=val/iou", "hardware.micro_batch=5")
    ended = lab(
        "train", *arguments, "augment=boxes_and_masks", "augment.scale=[0.5,1.5]", "optimizer.lr=0.1", "epochs=5"
    )
    assert ended.code == 0, ended.err
    assert json.loads((only_run(tmp_path) / "results.json").read_text())["test/iou"] > 0.85


def test_contrastive_learning_is_scored_by_a_probe_and_refuses_parts_of_a_batch(lab, tmp_path):
    shutil.copytree(ROOT / "tests" / "apps" / "simclr", tmp_path, dirs_exist_ok=True)
    for options, name in ((["epochs=30"], "trained"), (["epochs=1", "optimizer.lr=0"], "random")):
        ended = lab("train", "experiment=digits/simclr", *options, f"hydra.run.dir={name}")
        assert ended.code == 0, ended.err
    trained, untrained = (
        json.loads((tmp_path / name / "results.json").read_text())["test/probe_accuracy"]
        for name in ("trained", "random")
    )
    assert trained > untrained + 0.01
    for hardware in (["hardware.micro_batch=32"], ["hardware=ddp", "hardware.device=cpu", "hardware.processes=2"]):
        refused = lab("train", "experiment=digits/simclr", *hardware)
        assert refused.code == 2
        assert "compares every image with all others of its batch, so a batch cannot be split" in refused.err


def test_an_autoencoder_keeps_what_is_in_an_image(lab, tmp_path):
    shutil.copytree(ROOT / "tests" / "apps" / "autoencoder", tmp_path, dirs_exist_ok=True)
    ended = lab("train", "experiment=digits/autoencoder", "epochs=10", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test/explained"] > 0.8
    assert "accuracy" not in ended.out + ended.err + lab("ls").out + lab("show", "run").out


def test_a_table_is_predicted_from_one_yaml(lab, tmp_path):
    from sklearn.datasets import load_diabetes

    shutil.copytree(ROOT / "tests" / "apps" / "tabular", tmp_path, dirs_exist_ok=True)
    patients = load_diabetes(scaled=False)
    rows = np.column_stack([patients.data, patients.target])
    np.savetxt(
        tmp_path / "diabetes.csv",
        rows,
        delimiter=",",
        header=",".join([*patients.feature_names, "progression"]),
        comments="",
    )
    ended = lab("train", "-m", "experiment=diabetes/mlp", "seed=0,1", "epochs=20")
    assert ended.code == 0, ended.err
    rows = json.loads(lab("ls", "--json").out)
    assert all(row["metrics"]["test/r2"] > 0.3 for row in rows)
    assert not any("class" in word or "accuracy" in word for word in (lab("ls").out + ended.out).split())


@pytest.mark.slow
def test_a_wheel_holds_the_configs_and_runs_the_users_project(spirals, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("lab", "conf", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lab-*.whl")
    names = {name.partition(".dist-info/")[2] or name for name in zipfile.ZipFile(wheel).namelist()}
    assert {"licenses/LICENSE", "lab/report/page.js", "lab/experiments/grokking/paper.yaml"} <= names
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    code = "import lab; print(lab.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=spirals, capture_output=True, text=True, check=True
    )
    assert imported.stdout.startswith(str(site))
    for arguments in (["data=spirals", "model=sines", "steps=2"], ["model=mlp", "steps=2"]):
        command = [sys.executable, "-m", "lab", "train", *arguments]
        done = subprocess.run(command, env=env, cwd=spirals, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    config = [sys.executable, "-m", "lab", "train", "experiment=cifar10/resnet20", "--cfg", "job"]
    done = subprocess.run(config, env=env, cwd=spirals, capture_output=True, text=True, check=False)
    assert "blocks_per_stage: 3" in done.stdout
