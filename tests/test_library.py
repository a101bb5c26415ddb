"""lab as a library: the page on it, block by block, and its first script without Hydra."""

import contextlib
import faulthandler
import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

import lab
from lab.data.digits import digits
from lab.errors import ConfigError, Refused
from lab.models.mlp import MLP
from lab.optim.schedules import cosine
from lab.tasks.classification import Classification
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "library.md"
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydra", "omegaconf", "hydra_plugins"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def make_run(lr: float = 0.01, hidden: int = 16, schedule=cosine, seed: int = 0) -> lab.Run:
    torch.manual_seed(seed)
    data = digits(batch_size=64, seed=seed)
    model = MLP(shape=[1, 8, 8], num_classes=10, hidden=[hidden])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    cadence = lab.cadence(steps=12, steps_per_epoch=data.steps_per_epoch, save_every=6)
    return lab.Run(model, Classification(10), data, optimizer, schedule(optimizer, 12), cadence, seed=seed)


@pytest.mark.slow
def test_the_script_of_the_page_trains_without_hydra_and_omegaconf(tmp_path):
    (script,) = re.findall(r"```python\n(from pathlib.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs" / "mine" / "results.json").read_text())["test/accuracy"] > 0.95
    assert (tmp_path / "outputs" / "mine" / "checkpoints" / "last.pt").exists()


def test_the_page_on_the_library_prints_what_it_says(lab, tmp_path):
    """Each block of docs/library.md, one after the other; a `text` block is what the one before it prints."""
    namespace: dict = {}
    printed = ""
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) > 10
    for kind, text in blocks:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(text, namespace)
            printed = out.getvalue()
        elif kind == "bash":
            for command in text.strip().splitlines():
                assert lab(*shlex.split(command)[1:]).code == 0, command
        else:
            assert printed == text


def test_a_run_of_a_script_is_a_run_like_any_other(lab, tmp_path):
    import lab as library

    scores = library.fit(make_run(), tmp_path / "outputs" / "mine")
    (row,) = json.loads(lab("ls", "--json").out)
    assert (row["state"], row["experiment"], row["seed"]) == ("done", "script", 0)
    assert row["metrics"] == scores
    shown = lab("show", "outputs/mine").out
    assert "test/accuracy" in shown
    assert "parts.seed" in shown
    refused = lab("eval", "outputs/mine")
    assert refused.code == 2
    assert "was trained by a script, without a config" in refused.err
    (saved,) = library.runs("outputs")
    assert saved.results == scores


def test_the_same_script_again_shows_the_result_and_another_is_refused(tmp_path, capsys):
    scores = lab.fit(make_run(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name not in (".lock", "run")}
    assert lab.fit(make_run(), tmp_path / "run") == scores
    assert "holds this run, done before" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for other, part in (
        (make_run(lr=0.02), "optimizer.lr was 0.01, is 0.02"),
        (make_run(hidden=17), "model was MLP of"),
        (make_run(seed=1), "seed was 0, is 1"),
        (make_run(schedule=lambda o, steps: cosine(o, steps, warmup_share=0.5)), "schedule was"),
    ):
        with pytest.raises(Refused, match=re.escape(part)):
            lab.fit(other, tmp_path / "run")


def test_a_script_that_was_killed_resumes_to_the_same_scores(tmp_path):
    class Killed(Exception):
        pass

    def die(step: int) -> None:
        if step == 9:
            raise Killed

    from lab.train.stop import StopSignal

    class Dying(StopSignal):
        def __call__(self, step: int) -> str | None:
            die(step)
            return super().__call__(step)

    unbroken = lab.fit(make_run(), tmp_path / "unbroken")
    with pytest.raises(Killed):
        lab.fit(make_run(), tmp_path / "broken", stop=Dying())
    assert json.loads((tmp_path / "broken" / "status.json").read_text())["state"] == "failed"
    resumed = lab.fit(make_run(), tmp_path / "broken")
    assert {k: v for k, v in resumed.items() if "hardware/" not in k} == {
        k: v for k, v in unbroken.items() if "hardware/" not in k
    }
    assert len(json.loads((tmp_path / "broken" / "manifest.json").read_text())["segments"]) == 2


def test_a_record_of_ones_own_does_not_show_the_result_of_another_run_either(tmp_path):
    first = lab.execute(make_run(), lab.Record(tmp_path))
    again = lab.execute(make_run(), lab.Record(tmp_path))
    assert again["test/accuracy"] == first["test/accuracy"]
    with pytest.raises(Refused, match=re.escape("optimizer.lr was 0.01, is 0.02")):
        lab.execute(make_run(lr=0.02), lab.Record(tmp_path))


def test_what_does_not_compose_or_is_not_there_says_what_to_type():
    with pytest.raises(ConfigError, match="did you mean 'mlp'"):
        lab.compose(["model=mpl"])
    with pytest.raises(ConfigError, match="no run nowhere; lab ls lists"):
        lab.load("nowhere")


def test_lab_lists_its_names_and_ships_its_types():
    assert {"compose", "build", "fit", "load", "runs", "Run", "evaluate"} <= set(dir(lab))
    assert all(hasattr(lab, name) for name in dir(lab))
    assert (ROOT / "lab" / "py.typed").exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_program_that_calls_it_keeps_its_crash_reports(enabled, tmp_path):
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(sys.__stderr__) if enabled else faulthandler.disable()
    try:
        lab.fit(make_run(), tmp_path)
        assert faulthandler.is_enabled() is enabled
    finally:
        faulthandler.enable(sys.__stderr__) if was_enabled else faulthandler.disable()
