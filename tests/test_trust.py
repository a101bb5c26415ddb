"""What a config may name: data from others is no code."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.config.annotations import NodeKinds
from lab.config.groups import GROUPS
from lab.config.trust import check_code_outside, is_in_library, locate_trusted, may_import
from lab.errors import ConfigError

OPEN = NodeKinds((), is_open=True)
CODE = "class M(torch.nn.Module):\n    def forward(self): import os; os.mkdir('was_run')"


@pytest.mark.slow
def test_nothing_that_a_config_may_name_opens_imports_evaluates_or_unpickles_what_it_is_given(tmp_path):
    bait = Path(__file__).parent / "bait.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, bait], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["admitted"]) > 1000
    assert {"torch.nn.Linear", "timm.optim.AdamW", "timm.create_model"} <= set(result["admitted"])
    assert all(is_in_library(path) for path in result["admitted"])
    assert result["taken"] == []
    assert {"eval compile", "import exec", "load open", "load os.mkdir"} <= set(result["taken_by_refused"])
    assert sorted(result["left"]) == ["lab_canary.pt", "lab_canary_module.py"]


@pytest.mark.parametrize(
    "path",
    [
        "torch.fx.graph_module.reduce_graph_module",
        "torch.fx.GraphModule",
        "torch.jit.load",
        "torch.jit.ScriptModule",
        "torch.load",
        "torch.hub.load",
        "torch.package.PackageImporter",
        "torchvision.io.read_file",
        "timm.models.load_checkpoint",
        "transformers.AutoModel.from_pretrained",
        "numpy.load",
        "builtins.eval",
        "os.system",
        "subprocess.Popen",
        "lab.record.checkpoints.load_checkpoint",
        "lab.models.state_files.read_state",
    ],
)
def test_functions_and_classes_that_run_what_they_are_given_are_refused(path):
    with pytest.raises(ConfigError, match=r"is not one to be run from a config|no "):
        locate_trusted(path, GROUPS["model"], OPEN)


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("torch.nn.Linear", "model"),
        ("torchvision.models.resnet18", "model"),
        ("torchvision.models.get_model", "model"),
        ("torch.optim.AdamW", "optimizer"),
        ("torch.optim.lr_scheduler.CosineAnnealingLR", "schedule"),
        ("torchvision.transforms.v2.RandomHorizontalFlip", "augment"),
        ("lab.models.mlp.MLP", "model"),
    ],
)
def test_what_configs_name_every_day_is_trusted(path, group):
    assert callable(locate_trusted(path, GROUPS[group], OPEN))


def test_a_path_is_judged_before_anything_of_it_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "foreign_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'was_imported')!r}, 'w')")
    monkeypatch.syspath_prepend(str(package.parent))
    assert not may_import("foreign_package.Model")
    with pytest.raises(ConfigError, match="is not one to be run from a config"):
        locate_trusted("foreign_package.Model", GROUPS["model"], OPEN)
    assert not (tmp_path / "was_imported").exists()


@pytest.mark.parametrize("command", ["check", "train", "plan"])
def test_a_model_that_is_a_code_string_is_not_run(lab, tmp_path, command):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    node = {
        "_target_": "torch.fx.graph_module.reduce_graph_module",
        "body": {"_code": CODE},
        "import_block": "import os; os.mkdir('was_run')",
    }
    (tmp_path / "conf" / "model" / "evil.yaml").write_text(json.dumps(node))
    ended = lab(command, *(["-m"] if command == "plan" else []), "model=evil", "steps=1")
    assert not (tmp_path / "was_run").exists()
    if command != "plan":
        assert ended.code == 2
        assert "is not one to be run from a config" in ended.err


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x._target_=subprocess.Popen",
        "hydra.launcher._target_=os.system",
        "+hydra.job_logging.handlers.x.class=subprocess.Popen",
        "+hydra.job.env_set.LD_PRELOAD=evil.so",
        "+hydra.job.env_set.PYTHONPATH=evil",
    ],
)
def test_hydras_own_node_names_no_other_code(lab, tmp_path, override):
    ended = lab("train", "model=mlp", "steps=1", override)
    assert ended.code == 2, ended.out
    assert "must" in ended.err or "is not one" in ended.err


def test_a_run_directory_brings_no_code_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "evil.py").write_text("class Net: pass")
    (tmp_path / "mine.py").write_text("class Net: pass")
    with pytest.raises(ConfigError, match=r"names the code theirs\.evil\.Net, which lies beside it"):
        check_code_outside({"model": {"_target_": "theirs.evil.Net"}}, theirs / "run")
    check_code_outside({"model": {"_target_": "mine.Net"}}, theirs / "run")


@pytest.mark.slow
def test_no_command_runs_the_code_that_came_with_a_run(lab, tmp_path):
    """A run of someone else below the working directory, with a module beside it that its config names."""
    assert lab("train", "model=mlp", "steps=2", "hydra.run.dir=theirs/run").code == 0
    evil = (
        "import pathlib\nfrom lab.models.mlp import MLP\n\npathlib.Path('ran').touch()\n\n\nclass Net(MLP):\n    pass\n"
    )
    (tmp_path / "theirs" / "evil.py").write_text(evil)
    run = tmp_path / "theirs" / "run"
    for name in ("config.yaml", ".hydra/config.yaml"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace("lab.models.mlp.MLP", "theirs.evil.Net"))
    status = json.loads((run / "status.json").read_text())
    for name in status["sealed"]:
        status["sealed"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / "status.json").write_text(json.dumps(status))
    for arguments in (
        ["eval", "theirs/run"],
        ["rerun", "theirs/run"],
        ["resume", "theirs/run"],
        ["adapter", "theirs/run", "out"],
        ["predict", "theirs/run", "x.png"],
        ["export", "theirs/run", "exported"],
        ["show", "theirs/run"],
        ["report", "theirs"],
        ["ls", "theirs"],
        ["diff", "theirs/run", "theirs/run"],
        ["train", "model=mlp", "weights=theirs/run", "steps=2"],
    ):
        lab(*arguments)
        assert not (tmp_path / "ran").exists(), arguments
    assert "lies beside it" in lab("eval", "theirs/run").err
