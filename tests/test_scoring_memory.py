"""Scoring takes as many examples at once as training was asked to take, and is halved with it where memory runs out."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.assembly.dry_run import dry_run
from lab.data.in_memory import Examples, InMemory
from lab.data.synthetic import synthetic
from lab.errors import ConfigError
from lab.hardware import Hardware
from lab.metrics.scores import ResolvedMonitor
from lab.models.mlp import MLP
from lab.optim.schedules import constant
from lab.record.files import read_json
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.scoring import evaluate, generalization_gap
from tests.conftest import only_run


class Counting(MLP):
    """Notes how many examples it takes at once, for training and for scoring, and has memory for `limit` of them."""

    def __init__(self, shape: list[int], num_classes: int, limit: float = math.inf):
        super().__init__(shape, num_classes, hidden=[8])
        self.trained, self.scored, self.limit = set(), set(), limit

    def forward(self, inputs: Tensor) -> Tensor:
        (self.trained if self.training else self.scored).add(len(inputs))
        if not self.training and len(inputs) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(inputs)


def make(shape: list[int], batch_size: int, micro_batch: int | None = None, limit: float = math.inf) -> Any:
    torch.manual_seed(0)
    data = synthetic(10, shape, batch_size, seed=0, num_examples=2000, val_share=0.4)
    model = Counting(shape, 10, limit)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hardware = Hardware("cpu", micro_batch=micro_batch)
    pace = cadence(2, data.steps_per_epoch)
    return Run(model, Classification(10), data, optimizer, constant(optimizer), pace, hardware=hardware)


@pytest.mark.parametrize(
    ("shape", "batch_size", "micro_batch", "most"),
    [
        ([3, 32, 32], 4, None, 21),  # 2 ** 16 numbers in the inputs
        ([3, 32, 32], 64, None, 64),
        ([3, 32, 32], 64, 16, 16),
        ([3, 64, 64], 4, 1, 1),
        ([1, 8, 8], 64, None, 512),
        ([1, 8, 8], 64, 16, 16),
        ([1, 8, 8], 700, None, 700),
    ],
)
def test_scoring_takes_no_more_at_once_than_was_asked_for_but_for_tiny_inputs(shape, batch_size, micro_batch, most):
    run = make(shape, batch_size, micro_batch)
    list(train(run))
    assert max(run.model.trained) == (micro_batch or batch_size)
    for split in ("val", "test"):
        run.model.scored.clear()
        evaluate(run, split)
        assert max(run.model.scored) == min(most, len(run.data.splits[split].labels))
    run.model.scored.clear()
    generalization_gap(run, evaluate(run), run.model)
    dry_run(run)
    assert max(run.model.scored) == min(most, 800)


def test_scores_do_not_depend_on_how_many_are_scored_at_once():
    whole = evaluate(make([1, 8, 8], 64))
    for micro_batch in (1, 7, 100):
        parts = evaluate(make([1, 8, 8], 64, micro_batch))
        assert parts == pytest.approx(whole, rel=1e-6)
        assert [parts[name] for name in parts if "entropy" not in name and not name.endswith("/ece")] == [
            whole[name] for name in whole if "entropy" not in name and not name.endswith("/ece")
        ]


def test_long_texts_are_scored_by_the_batch_size_as_a_model_embeds_each_token():
    tokens = Examples(torch.zeros(900, 64, dtype=torch.int64), torch.zeros(900, dtype=torch.int64))
    features = tokens._replace(inputs=torch.zeros(900, 64))
    for examples, most in ((tokens, 8), (features, 512)):
        data = InMemory(examples, examples, examples, batch_size=8, seed=0)
        assert max(len(labels) for _, labels in data.val()) == most


class Whole:
    """Scores batches that only the task can count, and does not."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch["images"]).square().mean()

    def score(self, model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
        return {"loss": sum(float(model(batch["images"]).mean()) for batch in batches)}


def test_a_batch_that_cannot_be_split_is_scored_whole():
    run = make([1, 8, 8], 8, micro_batch=4)
    batch = {"images": torch.zeros(9, 1, 8, 8), "index": torch.zeros(2)}

    class Data:
        def val(self) -> list[Any]:
            return [batch]

    evaluate(replace(run, task=Whole(), data=Data()))
    assert run.model.scored == {9}


def test_a_dry_run_scores_what_fits_and_fails_where_nothing_does():
    run = make([1, 8, 8], 64, limit=100)
    assert dry_run(run).monitor == ResolvedMonitor("val/accuracy", "max")
    assert run.model.scored == {512, 256, 128, 64}
    run.model.limit = 0.5
    with pytest.raises(ConfigError, match="out of memory"):
        dry_run(run)


def test_a_run_without_memory_to_score_goes_on_with_smaller_micro_batches(lab, tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "greedy.py").write_text(
        "import torch\nfrom lab.models.mlp import MLP\n\n\n"
        "class Greedy(MLP):\n"
        "    def forward(self, x):\n"
        "        if not self.training and len(x) > 20:\n"
        "            raise torch.OutOfMemoryError('out of memory')\n"
        "        return super().forward(x)\n"
    )
    node = "_target_: greedy.Greedy\nshape: ${data.shape}\nnum_classes: ${data.num_classes}\nhidden: [8]\n"
    (tmp_path / "conf" / "model" / "greedy.yaml").write_text(node)
    command = ("train", "model=greedy", "steps=3", "logger=none", "hardware.device=cpu")
    assert "oom=shrink" in lab(*command).err
    ended = lab(*command, "oom=shrink")
    assert ended.code == 0, ended.err
    manifest = read_json(only_run(tmp_path) / "manifest.json")
    assert "micro-batch 16, memory did not suffice for more" in manifest["inexact"]
