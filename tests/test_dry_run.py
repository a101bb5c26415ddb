"""A dry run: the loss in training mode, the score in eval mode, and no trace; and what is done to a final model."""

import random
from copy import deepcopy
from dataclasses import replace

import numpy
import pytest
import torch
from torch import nn

from lab.assembly.dry_run import dry_run
from lab.errors import ConfigError
from lab.record.record import Record
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.regularize.swa import SWA
from lab.run import Run
from lab.tasks.classification import Classification
from lab.train.loop import execute
from lab.train.scoring import scored_model
from tests.test_regularize import make, same


class Strict(Classification):
    """A task as torchvision's detectors are: the model gives losses in training mode, and predictions in eval mode."""

    def __init__(self):
        super().__init__(10)
        self.losses = self.scorings = 0

    def loss(self, model, batch):
        assert all(part.training for part in model.modules())
        self.losses += 1
        return super().loss(model, batch)

    def score(self, model, batches):
        assert not model.training
        assert not any(part.training for part in model.modules() if not isinstance(part, nn.BatchNorm1d))
        self.scorings += 1
        return super().score(model, batches)


def averaging(run: Run) -> Run:
    average = SWA(run.model, run.cadence.steps, run.cadence.steps_per_epoch, start=0.2, every=7)
    return replace(run, task=Strict(), regularize=Chain([average]))


def test_the_loss_is_called_in_training_mode_alone(tmp_path):
    run = averaging(make(steps=40))
    dry_run(run)
    assert (run.task.losses, run.task.scorings) == (1, 1)
    execute(run, Record(tmp_path))
    assert run.task.losses == 1 + 40
    assert run.task.scorings > 4, "statistics are recomputed through the score"


class Counting(nn.Module):
    """Has a buffer that it changes in place and one that it replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.full((1,), 0.1))
        self.register_buffer("none", None)

    def forward(self, x):
        if self.training:
            self.batches += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return x - self.mean


@pytest.mark.parametrize(
    "regularized", [lambda run: run, averaging, lambda run: replace(run, regularize=Chain([EMA(run.model, 0.9)]))]
)
def test_a_dry_run_leaves_no_trace_in_buffers_weights_or_generators(regularized):
    run = make()
    run.model.append(Counting())
    run = regularized(run)
    buffers, state = list(run.model.buffers()), deepcopy(run.model.state_dict())
    generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    dry_run(run)
    assert same(run.model.state_dict(), state)
    assert all(a is b for a, b in zip(run.model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == generators[1:]
    assert not any(p.grad is not None for p in run.model.parameters())


def test_a_dry_run_finds_what_fails_in_training_mode_alone():
    run = make()
    single = replace(run, hardware=replace(run.hardware, micro_batch=1))
    with pytest.raises(ConfigError, match="Expected more than 1 value per channel"):
        dry_run(single)


def test_a_run_is_scored_at_its_end_with_the_model_that_finish_makes(tmp_path):
    class Finished(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, x):
            return -self.model(x)

    run, negated = make(steps=40), replace(make(steps=40), finish=Finished)
    expected = execute(run, Record(tmp_path / "as_it_is"))
    found = execute(negated, Record(tmp_path / "finished"))
    assert found["val/accuracy"] == expected["val/accuracy"] > 0.8, "on the way it is scored as it is trained"
    assert found["test/accuracy"] < 0.1 < 0.8 < expected["test/accuracy"]
    _, _, model = Record(tmp_path / "again").recall(negated)
    assert isinstance(model, Finished)
    assert model.model is scored_model(negated)
