"""A project of one's own, one YAML and one file a thing, from an editable install and from a wheel."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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
    assert "got int64[16, 8, 8]; give augment=none, or an augmentation of your own that moves both" in ended.err
    assert not list(tmp_path.glob("outputs/runs/**/metrics.jsonl")), "it trained"


def test_masks_are_trained_on_without_augmentation(lab, tmp_path):
    shutil.copytree(ROOT / "tests" / "apps" / "masks", tmp_path, dirs_exist_ok=True)
    arguments = ("data=masks", "model=pixel_classes", "task=segmentation", "monitor=val/pixel_accuracy")
    ended = lab("train", *arguments, "optimizer.lr=0.1", "epochs=5")
    assert ended.code == 0, ended.err
    assert json.loads((only_run(tmp_path) / "results.json").read_text())["test/pixel_accuracy"] > 0.95


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
