"""Imports point down the layers, as ARCHITECTURE.md draws them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

LAYERS = (
    ("cli", "_hydra"),
    ("study",),
    ("config",),
    ("record",),
    ("train",),
    ("run",),
    (
        "models",
        "data",
        "augment",
        "tasks",
        "metrics",
        "optim",
        "finetune",
        "regularize",
        "rank",
        "hardware",
        "activation_checkpointing",
        "parallel",
        "streams",
        "names",
    ),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether at the top of the file) of each import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module or "", node in tree.body


def sources() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "lab").glob("**/*.py")):
        part = path.relative_to(ROOT / "lab").parts[0].removesuffix(".py")
        if part not in ("__init__", "__main__"):
            yield path, part


def test_an_import_only_points_down():
    for path, part in sources():
        for module, _ in imports(path):
            top, _, rest = module.partition(".")
            if top == "lab" and rest:
                other = rest.split(".")[0]
                assert LEVEL[other] >= LEVEL[part], f"{path} imports {module}, which lies above it"


def test_hydra_and_omegaconf_stay_in_config_and_cli():
    for path, part in sources():
        if part not in ("config", "cli", "_hydra"):
            found = {module.split(".")[0] for module, _ in imports(path)} & {"hydra", "omegaconf"}
            assert not found, path


def test_study_and_the_reading_side_import_no_torch_at_the_top():
    for path, part in sources():
        if part in ("study", "cli", "_hydra") or path.name in ("files.py", "status.py", "manifest.py"):
            assert "torch" not in {module.split(".")[0] for module, top in imports(path) if top}, path


def test_importing_lab_costs_no_torch():
    code = "import sys, lab; assert 'torch' not in sys.modules; lab.Run; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
