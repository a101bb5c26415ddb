"""Activation checkpointing: the same bits in less memory."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.assembly.cost_estimate import estimate_cost
from lab.hardware import Hardware
from lab.models.resnet_cifar import ResNet
from lab.optim.clip import make_clip
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.scoring import evaluate
from lab.train.state import take_snapshot


def resnet() -> nn.Module:
    return ResNet(blocks_per_stage=3, shape=[3, 8, 8], num_classes=10)


class Transformer(nn.Module):
    """Patches of 4x4 as words, a class token, four layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        layers = [nn.TransformerEncoderLayer(32, 4, 64, dropout=0.2, batch_first=True) for _ in range(4)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        words = self.patches(images).flatten(2).mT
        words = torch.cat([self.token.expand(len(words), 1, 32), words], 1)
        return self.head(self.layers(words)[:, 0])


class Vit(nn.Module):
    """A published transformer, with stochastic depth and dropout."""

    def __new__(cls) -> Any:
        timm = pytest.importorskip("timm")
        small = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 10}
        return timm.create_model("vit_tiny_patch16_224", drop_rate=0.1, drop_path_rate=0.3, **small)


MODELS = [resnet, Transformer, Vit]


class Noise:
    """Batches by position."""

    steps_per_epoch = 4

    def batches(self, after: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            generator = torch.Generator().manual_seed(after)
            labels = torch.randint(10, (12,), generator=generator)
            yield torch.rand(12, 3, 8, 8, generator=generator), labels
            after += 1

    def val(self) -> list[tuple[Tensor, Tensor]]:
        return [next(self.batches(1000))]

    test = val


def make_run(model: Callable[[], nn.Module], activation_checkpointing: bool, micro_batch: int | None = None) -> Run:
    torch.manual_seed(0)
    hardware = Hardware("cpu", micro_batch=micro_batch, activation_checkpointing=activation_checkpointing)
    placed = hardware.place(model())
    optimizer = torch.optim.SGD(placed.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    parts = {"hardware": hardware, "clip": make_clip(1.0), "regularize": Chain([EMA(placed, 0.9)])}
    return Run(placed, Classification(10), Noise(), optimizer, schedule, cadence(4, 4), **parts)


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpointed_run_comes_to_the_same_bits(model, micro_batch):
    assert_same(
        collect_results(make_run(model, True, micro_batch)), collect_results(make_run(model, False, micro_batch))
    )


def collect_results(run: Run) -> list[Any]:
    """Losses and norms; weights, running statistics, averages and generators; scores."""
    steps = [(step.loss, step.norm) for step in train(run)]
    return [steps, take_snapshot(run), evaluate(run)]


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("model", MODELS)
def test_what_is_kept_for_the_backward_pass_shrinks(model):
    kept = []
    for lean in (False, True):
        run = make_run(model, lean)
        held = 0

        def hold(tensor: Tensor) -> Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            run.task.loss(run.model, next(iter(run.data.batches(0))))
        kept.append(held)
    assert kept[1] < kept[0] / 2


def test_the_estimate_of_a_steps_memory_tells_of_it():
    batch = torch.rand(64, 3, 8, 8), torch.zeros(64, dtype=torch.long)

    def peak(lean: bool) -> int:
        def make() -> tuple[nn.Module, torch.optim.Optimizer]:
            model = Hardware("cpu", activation_checkpointing=lean).place(Transformer())
            return model, torch.optim.SGD(model.parameters(), lr=0.1)

        estimated = estimate_cost(make, Classification(10), batch, Hardware("cpu")).peak
        assert estimated
        return estimated

    assert peak(True) < peak(False) / 2


def test_the_keys_of_the_state_stay_and_a_copy_checkpoints_its_own_blocks():
    plain, lean = make_run(resnet, False).model, make_run(resnet, True).model
    assert list(plain.state_dict()) == list(lean.state_dict())
    copy = deepcopy(lean)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    images = torch.rand(2, 3, 8, 8)
    assert not copy(images).any()
    assert lean(images).any()


class Fickle(nn.Module):
    """A model that keeps a vector of its own in a buffer, and draws from Python's and NumPy's generators."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(*(FickleBlock() for _ in range(2)))
        self.head = nn.Linear(192, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stack(images.flatten(1)))


class FickleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(192, 192))
        self.register_buffer("calls", torch.zeros(()))
        self.inner = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        import random

        import numpy

        self.calls: Tensor
        if self.training:
            self.calls = self.calls + 1
        scale = random.random() + float(numpy.random.rand())
        return self.inner(F.dropout(self.linear(x), 0.2, self.training)) * scale * self.calls.clamp_min(1)


def test_buffers_and_draws_of_a_models_own_are_those_of_the_first_pass():
    lean = make_run(Fickle, True)
    assert_same(collect_results(lean), collect_results(make_run(Fickle, False)))
    assert lean.model.state_dict()["stack.0.calls"] == 4


def test_with_compilation_it_is_refused():
    with pytest.raises(ValueError, match="activation_checkpointing=false"):
        Hardware("cpu", compile=True, activation_checkpointing=True)


def test_a_run_says_so_in_its_config(lab, tmp_path):
    short = ("model=resnet20", "data=synthetic", "data.num_examples=64", "steps=2", "logger=none")
    for lean in ("true", "false"):
        done = lab("train", *short, f"hardware.activation_checkpointing={lean}", f"hydra.run.dir=run_{lean}")
        assert done.code == 0, done.err
    states = [torch.load(tmp_path / f"run_{lean}" / "checkpoints" / "last.pt")["run"] for lean in ("true", "false")]
    assert_same(*states)
