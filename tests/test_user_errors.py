"""Errors in a project's own code: where they are, and where their traceback is kept."""

import json
from pathlib import Path

import pytest

from tests.conftest import only_run
from tests.project import read

MODEL = """
import math
from torch import nn


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no")


class Net(nn.Sequential):
    def __init__(self, shape: list[int], num_classes: int, fails: str = "no"):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), num_classes))
        self.fails = fails
        if fails == "init":
            {}["oops"]

    def forward(self, inputs):
        self.calls = getattr(self, "calls", 0) + 1
        if self.training and self.calls > 4:
            if self.fails == "bytes":
                raise RuntimeError("not UTF-8: \\udcff, and \\x1b[31m")
            if self.fails == "unspeakable":
                raise Unspeakable()
            if self.fails == "long":
                raise RuntimeError("many words " * 100_000)
        return super().forward(inputs)
"""


@pytest.fixture
def app(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "_target_: mine.Net\nshape: ${data.shape}\nnum_classes: ${data.num_classes}\nfails: no\n"
    )
    return tmp_path


def test_an_error_in_a_model_is_named_by_its_line_and_its_traceback_is_kept(app, lab_process):
    for command in (("train",), ("train", "-m", "seed=0,1"), ("check",)):
        ended = lab_process(*command, "model=mine", "model.fails=init")
        assert ended.code == 2
        assert "lab: model: KeyError: 'oops' (mine.py:16 in __init__)" in ended.err
        assert "lab: outputs/error.txt has the traceback" in ended.err
        kept = app / "outputs" / "error.txt"
        assert "KeyError: 'oops'" in kept.read_text().splitlines()[-1]
        assert '{}["oops"]' in kept.read_text()
        kept.unlink()


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("bytes", "RuntimeError: not UTF-8: \udcff, and \x1b[31m (mine.py:22 in forward)"),
        (
            "unspeakable",
            "Unspeakable: (its text cannot be shown, as str() of it raises RuntimeError) (mine.py:24 in forward)",
        ),
        ("long", "many words many words"),
    ],
    ids=["bytes", "unspeakable", "long"],
)
def test_whatever_an_error_says_the_run_has_failed_for_a_cause_that_can_be_read(app, lab_process, fails, message):
    ended = lab_process("train", "model=mine", f"model.fails={fails}", "epochs=1", "logger=none")
    assert ended.code == 1
    run = only_run(app)
    status = read(run / "status.json")
    assert status["state"] == "failed"
    assert not status["outside"]
    assert message in status["error"]
    assert len(status["error"]) < 1100
    assert "in forward" in (run / "error.txt").read_text()
    assert json.loads(lab_process("ls", "--json").out)[0]["state"] == "failed"
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("keys", "message"), [("1: 2", "the key 1 is no text"), ("null: c", "a key of a YAML is null")]
)
def test_a_key_that_is_no_text_is_refused_by_name(lab, tmp_path, keys, message):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    node = "_target_: lab.models.mlp.MLP\nshape: ${data.shape}\nnum_classes: ${data.num_classes}\nhidden: [8]\n"
    (tmp_path / "conf" / "model" / "odd.yaml").write_text(f"{node}{keys}\n")
    for verb in (["train"], ["check", "-m"]):
        refused = lab(*verb, "model=odd", "steps=2")
        assert (refused.code, message in refused.err) == (2, True), refused.err


def test_what_the_terminal_cannot_spell_is_escaped(lab_process):
    shown = lab_process("show", "ü", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert shown.code == 2
    assert "no run \\xfc" in shown.err
