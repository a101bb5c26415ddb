"""Micro-batches: the whole batch's gradients in less memory, and what is not memory that did not suffice."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab.data.digits import digits
from lab.errors import ConfigError
from lab.hardware import Hardware, is_out_of_memory
from lab.models.mlp import MLP
from lab.optim.clip import make_clip
from lab.optim.schedules import constant, cosine
from lab.run import Run, Step, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.micro_batches import split_batch
from lab.train.state import restore_snapshot, take_snapshot

BATCH = 64
TASK = Classification(10)
SIZES = [1, 16, 24, 63]  # 24 and 63 do not divide 64


def make(
    micro_batch: int | None = None, steps: int = 20, precision: str = "float32", dropout: float = 0.0, **own
) -> Run:
    torch.manual_seed(0)
    data = digits(batch_size=BATCH, seed=0)
    model = MLP([1, 8, 8], 10, hidden=[32], dropout=dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    own = {"hardware": Hardware("cpu", precision=precision, micro_batch=micro_batch), **own}
    pace = cadence(steps, data.steps_per_epoch)
    return Run(model, Classification(10, label_smoothing=0.1), data, optimizer, constant(optimizer), pace, **own)


def in_float64(run: Run) -> Run:
    class Doubled:
        def batches(self, after):
            yield from ((images.double(), labels) for images, labels in map(data.prepare, data.batches(after)))

    data = run.data
    run.model.double()
    return replace(run, data=Doubled())


def watched(run: Run) -> tuple[list[Step], list[list[torch.Tensor]]]:
    """The steps of a run, and the gradients that each of them took, as clipping left them."""
    gradients = []

    def keep(parameters):
        parameters = list(parameters)
        norm = run.clip(parameters)
        gradients.append([parameter.grad.clone() for parameter in parameters])
        return norm

    return list(train(replace(run, clip=keep))), gradients


def weights(run: Run) -> list[torch.Tensor]:
    return [value.clone() for value in run.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Of two lists of tensors, in norms of the second."""
    a_, b_ = (torch.cat([value.double().flatten() for value in values]) for values in (a, b))
    return ((a_ - b_).norm() / b_.norm()).item()


@pytest.mark.parametrize("max_norm", [None, 0.1])
@pytest.mark.parametrize("size", SIZES)
def test_micro_batches_give_the_gradients_losses_and_weights_of_the_whole_batch(size, max_norm):
    whole, micro = (in_float64(make(of, clip=make_clip(max_norm))) for of in (None, size))
    (steps, gradients), (micro_steps, micro_gradients) = watched(whole), watched(micro)
    for one, other, expected, found in zip(steps, micro_steps, gradients, micro_gradients, strict=True):
        assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-12)
        assert distance(found, expected) < 1e-12
        if max_norm:
            assert other.norm.item() == pytest.approx(one.norm.item(), rel=1e-12)
            assert one.norm > max_norm, "nothing was clipped"
    assert distance(weights(micro), weights(whole)) < 1e-12


@pytest.mark.parametrize(("precision", "rounding"), [("float32", 2**-23), ("bf16", 2**-8), ("fp16", 2**-11)])
@pytest.mark.parametrize("size", SIZES)
def test_in_any_precision_the_gradients_are_the_whole_batches_within_its_rounding(size, precision, rounding):
    whole, micro = (make(of, steps=1, precision=precision) for of in (None, size))
    ((step,), (expected,)), ((micro_step,), (found,)) = watched(whole), watched(micro)
    assert distance(found, expected) < 4 * rounding
    assert micro_step.loss.item() == pytest.approx(step.loss.item(), rel=4 * rounding)
    assert micro_step.loss.dtype == torch.float32


def test_the_scaler_skips_a_step_that_one_micro_batch_made_overflow():
    run = make(16, steps=2, precision="fp16")
    scaler = run.hardware.scaler
    before, scale = weights(run), 65536.0
    steps = train(replace(run, task=Exploding(run.task, at=3)))
    next(steps)
    assert same(weights(run), before)
    assert scaler.get_scale() == scale / 2
    next(steps)
    assert not same(weights(run), before)


class Exploding:
    """A task whose loss overflows in one of its calls."""

    def __init__(self, task, at: int):
        self.task, self.at, self.calls = task, at, 0

    def loss(self, model, batch):
        self.calls += 1
        return self.task.loss(model, batch) * (1e38 if self.calls == self.at else 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_micro_batches_leave_autocast_off_in_the_consumer(precision):
    for _ in train(make(24, steps=3, precision=precision)):
        assert not torch.is_autocast_enabled("cpu")


def test_without_micro_batches_a_run_has_the_bits_of_a_loop_written_by_hand():
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = MLP([1, 8, 8], 10, hidden=[32])
        return model, torch.optim.Adam(model.parameters(), lr=0.01, fused=True)

    data = digits(batch_size=BATCH, seed=0)
    model, optimizer = start()
    pace = cadence(60, data.steps_per_epoch)
    parts = {"clip": make_clip(1.0), "hardware": Hardware("cpu")}
    run = Run(model, Classification(10), data, optimizer, cosine(optimizer, 60), pace, **parts)
    steps = list(train(run))
    by_hand, optimizer = start()
    schedule = cosine(optimizer, 60)
    for step, batch in zip(steps, data.batches(0), strict=False):
        images, labels = data.prepare(batch)
        loss = F.cross_entropy(by_hand(images), labels)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        assert step.loss.item() == loss.item()
        assert step.norm.item() == norm.item()
        assert not step.loss.requires_grad
    assert same(weights(run), list(by_hand.state_dict().values()))


@pytest.mark.parametrize("size", [BATCH, 1000])
def test_one_micro_batch_has_the_bits_of_the_whole_batch(size):
    whole, micro = make(), make(size)
    losses, micro_losses = ([step.loss for step in train(run)] for run in (whole, micro))
    assert same(losses, micro_losses)
    assert same(weights(whole), weights(micro))


def test_dropout_in_micro_batches_repeats_and_is_resumed():
    first, again, broken, resumed, whole = (make(size, dropout=0.3) for size in (24, 24, 24, 24, None))
    for run in (first, again, whole):
        list(train(run))
    assert same(weights(first), weights(again))
    list(islice(train(broken), 7))
    restore_snapshot(resumed, take_snapshot(broken))
    list(train(resumed, after=7))
    assert same(weights(first), weights(resumed))
    assert not same(weights(first), weights(whole)), "other masks than for the whole batch"


def test_channels_last_images_stay_so_in_each_part():
    images = Hardware("cpu", channels_last=True).arrange(torch.rand(6, 3, 4, 4))
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part, _ in split_batch(TASK, images, 4))


class Pair(NamedTuple):
    images: torch.Tensor
    more: dict[str, Any]


def test_a_nest_is_split_into_even_parts_of_at_most_the_size_that_hold_all_of_it():
    batch = Pair(torch.arange(7).reshape(7, 1), {"labels": [torch.arange(7)], "mask": None})
    found = list(split_batch(TASK, batch, 3))
    assert [len(part.images) for part, _ in found] == [2, 2, 3]
    assert [share for _, share in found] == [2 / 7, 2 / 7, 3 / 7]
    assert torch.equal(torch.cat([part.images for part, _ in found]), batch.images)
    assert torch.equal(torch.cat([part.more["labels"][0] for part, _ in found]), batch.more["labels"][0])
    assert all(part.more["mask"] is None for part, _ in found)
    assert all(part.images.data_ptr() != 0 and part.images._base is not None for part, _ in found), "views, no copies"


@pytest.mark.parametrize("num_examples", range(1, 12))
@pytest.mark.parametrize("size", range(1, 13))
def test_no_part_is_larger_than_asked_or_more_than_one_smaller_than_another(num_examples, size):
    lengths = [len(part) for part, _ in split_batch(TASK, torch.zeros(num_examples), size)]
    assert sum(lengths) == num_examples
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-num_examples // size)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda images, labels: (images, labels[:32]), "first dimensions are 32, 64, not"),
        (lambda images, labels: (images, labels, torch.tensor(0.5)), "that of a scalar"),
        (lambda images, labels: (images, labels, ["a", "b"]), "that of a str"),
        (lambda images, labels: (images[:0], labels[:0]), "first dimensions are 0, not"),
        (lambda images, labels: (), "first dimensions are none, not"),
    ],
)
def test_a_batch_that_cannot_be_split_is_an_error_in_the_first_step(spoil, said):
    run = make(16)
    data = run.data

    class Spoiled:
        def batches(self, after):
            yield from (spoil(*batch) for batch in map(data.prepare, data.batches(after)))

    with pytest.raises(ValueError, match=said) as raised:
        next(train(replace(run, data=Spoiled())))
    assert "hardware.micro_batch=null" in str(raised.value)


@pytest.mark.parametrize("size", [0, -16])
def test_a_size_that_is_not_positive_is_refused(size):
    with pytest.raises(ValueError, match=f"micro_batch={size} is not a positive number; null takes the whole batch"):
        Hardware("cpu", micro_batch=size)


@pytest.mark.slow
def test_the_command_line_trains_in_micro_batches(lab, tmp_path):
    def losses(outputs: str, *overrides: str) -> list[float]:
        ended = lab(
            "train", "hardware=cpu", "model=mlp", "optimizer=sgd", "epochs=2", f"paths.outputs={outputs}", *overrides
        )
        assert ended.code == 0, ended.err
        (metrics,) = (tmp_path / outputs).glob("runs/**/metrics.jsonl")
        lines = map(json.loads, metrics.read_text().splitlines())
        return [line["train/loss"] for line in lines if "train/loss" in line]

    whole, micro = losses("whole"), losses("micro", "hardware.micro_batch=16")
    assert len(micro) >= 2
    assert micro == pytest.approx(whole, rel=1e-4)
    ids = {path.parent.name[-8:] for path in tmp_path.glob("*/runs/**/status.json")}
    assert len(ids) == 2, "another rounding is another run"


@pytest.mark.slow
def test_the_command_line_refuses_a_size_that_is_none(lab, tmp_path):
    for given, said in (("0", "micro_batch=0 is not a positive number"), ("1.5", "micro_batch=1.5 is not a whole")):
        ended = lab("train", f"hardware.micro_batch={given}")
        assert ended.code == 2
        assert said in ended.err
        assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("outputs/**/*"))


def raised(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def throw(error: BaseException, cause: BaseException | None = None) -> None:
    raise error from cause


def within(handled: Callable[[], Any], then: BaseException) -> None:
    """`then`, raised while the error of `handled` is handled."""
    try:
        handled()
    except Exception:
        raise then  # noqa: B904


def too_much() -> torch.Tensor:
    return torch.empty(PETABYTE, dtype=torch.uint8)


PETABYTE = 2**50


@pytest.mark.parametrize(
    "call",
    [
        too_much,
        lambda: torch.rand(1).expand(PETABYTE).clone(),
        lambda: torch.rand(2**25, 1) @ torch.rand(1, 2**25),
        lambda: bytearray(PETABYTE),
        lambda: numpy.empty(PETABYTE),
        lambda: throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 TiB.")),
        lambda: throw(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 TiB.")),
        # torch's words on other machines: Windows, Apple, and CUDA where no allocator of torch's asks
        lambda: throw(RuntimeError("data. DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes.")),
        lambda: throw(RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, max allowed: 6.80 GB).")),
        lambda: throw(RuntimeError("CUDA error: out of memory")),
        lambda: throw(ConfigError("model: it cannot be made"), cause=raised(too_much)),
        lambda: within(too_much, ValueError("another")),
        lambda: within(lambda: throw(ValueError("another"), cause=raised(too_much)), KeyError("one more")),
    ],
)
def test_memory_that_did_not_suffice_is_known(call):
    assert is_out_of_memory(raised(call))


def circular() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.rand(2, 3) @ torch.rand(2, 3),
        lambda: torch.empty(-1),
        lambda: throw(ValueError("DefaultCPUAllocator: can't allocate memory")),
        lambda: throw(OSError(12, "Cannot allocate memory")),
        lambda: within(lambda: within(lambda: {}["x"], ValueError("another")), KeyError("one more")),
        circular,
    ],
)
def test_other_errors_are_not_taken_for_it(call):
    assert not is_out_of_memory(raised(call))


def test_an_error_raised_from_none_stands_for_itself():
    def hidden() -> None:
        try:
            too_much()
        except RuntimeError:
            raise ValueError("give a smaller batch_size") from None

    assert not is_out_of_memory(raised(hidden))
