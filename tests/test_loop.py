"""The loop: the same bits as a loop written by hand, and as itself interrupted."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F

from lab.augment.flip_crop import flip_crop
from lab.augment.mix import mixup
from lab.data.digits import digits
from lab.errors import Diverged
from lab.hardware import Hardware
from lab.metrics.scores import Monitor
from lab.models.mlp import MLP
from lab.optim.clip import make_clip
from lab.optim.schedules import LambdaSchedule, cosine
from lab.record.checkpoints import load_checkpoint, save_checkpoint
from lab.record.record import Record
from lab.regularize.chain import Chain
from lab.regularize.early_stop import EarlyStop
from lab.regularize.ema import EMA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.batches import training_subset
from lab.train.loop import execute, train
from lab.train.scoring import evaluate
from lab.train.single_batch import SingleBatch
from lab.train.state import restore_snapshot, take_snapshot


def make(steps: int = 60, seed: int = 0, dropout: float = 0.0, **parts) -> Run:
    torch.manual_seed(seed)
    data = digits(batch_size=64, seed=seed)
    model = MLP([1, 8, 8], 10, hidden=[32], dropout=dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    pace = cadence(steps, data.steps_per_epoch, log_every=10)
    parts = {"hardware": Hardware("cpu"), **parts}
    return Run(model, Classification(10), data, optimizer, cosine(optimizer, steps), pace, seed, **parts)


def weights(run: Run) -> list[torch.Tensor]:
    return [value.clone() for value in run.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def test_train_takes_the_steps_of_a_loop_written_by_hand():
    run, by_hand = make(), make()
    losses = [step.loss for step in train(run)]
    optimizer = torch.optim.Adam(by_hand.model.parameters(), lr=0.01, fused=True)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    batches = by_hand.data.batches(0)
    for n in range(60):
        images, labels = by_hand.data.prepare(next(batches))
        loss = F.cross_entropy(by_hand.model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        annealing.step()
        assert torch.allclose(loss, losses[n], atol=1e-6)
    assert all(map(torch.allclose, weights(run), weights(by_hand)))


def test_a_seed_repeats_and_another_does_not():
    first, again, other = (make(seed=seed, dropout=0.1) for seed in (0, 0, 1))
    for run in (first, again, other):
        list(train(run))
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("kept_at", [1, 13, 40])
def test_a_resumed_run_ends_in_the_same_bits_as_an_unbroken_one(kept_at):
    def regularized(run: Run) -> Run:
        return replace(run, regularize=Chain([EMA(run.model, decay=0.9)]))

    def run_with_everything() -> Run:
        crop = lambda batch, draw: flip_crop(batch, draw, padding=1)  # noqa: E731
        return regularized(make(dropout=0.2, augment=crop, clip=make_clip(1.0)))

    unbroken, broken, resumed = (run_with_everything() for _ in range(3))
    list(train(unbroken))
    steps = train(broken)
    for _ in range(kept_at):
        next(steps)
    restore_snapshot(resumed, take_snapshot(broken))
    list(train(resumed, after=kept_at))
    assert same(weights(unbroken), weights(resumed))
    averages = [list(run.regularize.model_to_score(run.model).parameters()) for run in (unbroken, resumed)]
    assert same(*averages)


def test_what_code_draws_from_numpy_and_python_is_seeded_and_resumed(tmp_path):
    def noisy(batch, draw):
        return batch[0] + int(numpy.random.randint(3)) + random.randrange(3) - 2, batch[1]

    unbroken, broken, resumed, seeded_alike = (make(augment=noisy) for _ in range(4))
    list(train(unbroken))
    steps = train(broken)
    for _ in range(13):
        next(steps)
    save_checkpoint(tmp_path / "state.pt", {"run": take_snapshot(broken)})
    numpy.random.seed(1)
    random.seed(1)
    restore_snapshot(resumed, load_checkpoint(tmp_path / "state.pt")["run"])
    list(train(resumed, after=13))
    list(train(seeded_alike))
    assert same(weights(unbroken), weights(resumed))
    assert same(weights(unbroken), weights(seeded_alike))


def test_nothing_is_fetched_from_the_device_but_on_logging_steps(tmp_path, monkeypatch):
    run, fetched = make(steps=40), []
    record = Record(tmp_path)
    for name in ("item", "__float__", "__bool__", "__int__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, **kwargs):
            fetched.append(1)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    by_step = []
    for step in train(run):
        fetched.clear()
        record.step(run, step)
        by_step.append(len(fetched))
        fetched.clear()
    assert [n for n, count in enumerate(by_step, start=1) if count] == [10, 20, 30, 40]
    monkeypatch.undo()


def test_between_two_steps_the_loop_itself_fetches_nothing(monkeypatch):
    run = make(steps=5)
    steps = train(run)
    next(steps)
    for name in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, None)
    next(steps)
    monkeypatch.undo()


def test_execute_scores_validation_on_the_way_and_test_once(tmp_path):
    asked = []

    class Watched:
        def __init__(self, data):
            self.data = data

        def __getattr__(self, name):
            if name in ("val", "test"):
                asked.append(name)
            return getattr(self.data, name)

    run = make(steps=60)
    run = replace(run, data=Watched(run.data))
    results = execute(run, Record(tmp_path))
    assert asked == ["val", "val", "val", "test"]
    assert results["test/accuracy"] > 0.9
    assert {"val/accuracy", "val/cross_entropy", "val/top5", "val/accuracy/3"} <= results.keys()


def by_heart(**parts) -> Run:
    """A run of 200 training examples whose labels are noise, as those of validation and test are."""
    run = replace(make(steps=400, **parts), data=digits(batch_size=64, seed=0, train_examples=200))
    for split in run.data.splits.values():
        split.labels.copy_(torch.randint(10, split.labels.shape, generator=torch.Generator().manual_seed(0)))
    return run


def test_labels_that_are_noise_are_learnt_by_heart_and_the_gap_tells(tmp_path):
    found = execute(by_heart(final="last"), Record(tmp_path))
    assert found["train/accuracy"] > 0.8
    assert found["val/accuracy"] < 0.25
    for name in ("accuracy", "cross_entropy", "top5"):
        assert found[f"gap/{name}"] == found[f"train/{name}"] - found[f"val/{name}"]
    assert found["gap/accuracy"] > 0.5
    assert found["gap/cross_entropy"] < -1
    assert not [name for name in found if name.startswith(("train/accuracy/", "gap/accuracy/"))]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["gap/accuracy"] == found["gap/accuracy"]
    assert last["test/accuracy"] == found["test/accuracy"]


def test_the_gap_is_that_of_images_as_they_are_and_of_as_many_as_validate(tmp_path):
    def unreadable(batch, draw):
        mixed = mixup(batch, draw, num_classes=10, alpha=0.2)
        return mixed[0] * 0, mixed[1]

    scored = []

    class Counting(Classification):
        def score(self, model, batches):
            kept = list(batches)
            scored.append(sum(len(labels) for _, labels in kept))
            return super().score(model, kept)

    run = make(steps=20, augment=unreadable)
    run = replace(run, task=Counting(10))
    found = execute(run, Record(tmp_path))
    batches = [run.data.prepare(batch) for batch, _ in zip(run.data.batches(0), range(3), strict=False)]
    with torch.no_grad():
        assert found["train/accuracy"] == Classification(10).score(run.model, batches)["accuracy"]
    assert scored == [144, 359, 192], "validation, test, and training in whole batches"
    # what a data set does not say is counted
    run.data.val_examples = None
    assert sum(len(labels) for _, labels in training_subset(run)) == 192


def test_without_a_validation_set_there_is_no_gap(tmp_path):
    run = make(steps=5)
    run = replace(run, data=digits(batch_size=64, seed=0, val_share=0.0), final="last")
    found = execute(run, Record(tmp_path))
    assert "test/accuracy" in found
    assert not [name for name in found if name.startswith(("train/", "gap/"))]


def test_the_final_weights_are_the_best_or_the_last(tmp_path):
    def bad_end(final: str) -> dict[str, float]:
        run = make(steps=40, final=final)
        # the second half climbs: the best weights are those of the first
        climbing = LambdaSchedule(run.optimizer, lambda taken: 1.0 if taken < 20 else -5.0)
        return execute(replace(run, schedule=climbing), Record(tmp_path / final))

    best, last = bad_end("best"), bad_end("last")
    assert best["val/accuracy"] > last["val/accuracy"]
    assert best["test/accuracy"] > last["test/accuracy"]


def test_early_stop_ends_a_run_that_no_longer_improves(tmp_path):
    run = make(steps=4000)
    run = replace(run, regularize=Chain([EarlyStop(Monitor(), patience=2)]))
    execute(run, Record(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"step": 4000' not in lines[-1]
    resumed = replace(make(steps=4000), regularize=Chain([EarlyStop(Monitor(), patience=2)]))
    before = (tmp_path / "metrics.jsonl").read_text().count("train/loss")
    execute(resumed, Record(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_text().count("train/loss") == before, "a stopped run does not go on"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_leaves_autocast_off_in_the_consumer(precision):
    run = make(steps=60, hardware=Hardware("cpu", precision=precision))
    for step in train(run):
        assert not torch.is_autocast_enabled("cpu")
        assert step.loss.dtype == torch.float32
    assert evaluate(run)["val/accuracy"] > 0.85


def test_channels_last_gives_the_same_numbers():
    from lab.models.resnet_cifar import ResNet

    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    model = ResNet(1, [3, 16, 16], 10).eval()
    expected = model(images)
    hardware = Hardware("cpu", channels_last=True)
    hardware.place(model)
    moved = hardware.arrange(hardware.move((images, {"a": [images]})))
    assert moved[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(moved[1]["a"][0]), expected, atol=1e-5)


def test_one_batch_is_brought_to_a_loss_near_zero():
    run = make(steps=200)
    run = replace(run, data=SingleBatch(run.data))
    *_, last = train(run)
    assert last.loss < 0.02


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    run = make(steps=60)
    run.optimizer.param_groups[0]["lr"] = 1e30
    run.schedule.base = [1e30]
    with pytest.raises(Diverged, match="train/loss is nan after step"):
        execute(run, Record(tmp_path))
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_data_that_ends_is_asked_again_and_empty_data_is_an_error():
    class OneEpoch:
        def __init__(self, data, length):
            self.data, self.length, self.asked = data, length, []

        def batches(self, after):
            self.asked.append(after)
            for _, batch in zip(range(self.length), self.data.batches(after), strict=False):
                yield self.data.prepare(batch)

    run = make(steps=30)
    short = OneEpoch(run.data, 12)
    assert len(list(train(replace(run, data=short)))) == 30
    assert short.asked == [0, 12, 24]
    with pytest.raises(ValueError, match=r"OneEpoch\.batches\(0\) yields no batch"):
        list(train(replace(run, data=OneEpoch(run.data, 0))))


def test_hardware_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="it has: "):
        Hardware("tpu")
    with pytest.raises(ValueError, match="float32, bf16, fp16"):
        Hardware("cpu", precision="fp8")
