"""The README's script, with Hydra and OmegaConf not there."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydra", "omegaconf", "hydra_plugins"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_the_script_of_the_readme_trains_without_hydra_and_omegaconf(tmp_path):
    (script,) = re.findall(r"```python\n(from pathlib.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(script.strip().splitlines()) <= 18
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.95
    assert (tmp_path / "outputs" / "mine" / "checkpoints" / "last.pt").exists()
