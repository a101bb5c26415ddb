"""What a step will cost is what it costs: the trace without values against the same steps with real arithmetic."""

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lab.assembly.cost_estimate import (
    Allocations,
    ModelAndOptimizer,
    choose_kernels,
    estimate_cost,
    measure_cost,
    trace_step,
)
from lab.finetune.linear_probe import linear_probe
from lab.hardware import Hardware
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.models.torchvision import torchvision_model
from lab.nest import map_tensors
from lab.optim.muon import Muon
from lab.seeding import make_generator


class Encoder(nn.Module):
    """Tokens (B, T) of 50 to 10 logits."""

    def __init__(self, dropout: float = 0.1):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
        self.embed = nn.Embedding(50, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


SHAPE = [3, 32, 32]
DRAWS = make_generator(0, "order")
LABELS = torch.randint(10, (8,), generator=DRAWS)
IMAGES = (torch.rand(8, *SHAPE, generator=DRAWS), LABELS)
TOKENS = (torch.randint(50, (8, 16), generator=DRAWS), LABELS)

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (lambda: MLP(SHAPE, 10, [64, 32], dropout=0.1), IMAGES),
    "simple_cnn": (lambda: SimpleCNN(SHAPE, 10), IMAGES),
    "resnet20": (lambda: ResNet(3, SHAPE, 10), IMAGES),
    "resnet18": (lambda: torchvision_model("resnet18", 10, SHAPE), IMAGES),
    "encoder": (Encoder, TOKENS),
    "flash_encoder": (lambda: Encoder(dropout=0.0), TOKENS),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adam": partial(torch.optim.Adam, lr=0.1),
    "fused_adam": partial(torch.optim.Adam, lr=0.1, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1),
}


def loss(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def task_of(loss: Callable[..., Tensor]) -> Any:
    return SimpleNamespace(loss=loss)


TASK, CPU = task_of(loss), Hardware("cpu")


def makes(model: Callable[[], nn.Module], optimizer: Callable[..., torch.optim.Optimizer] = OPTIMIZERS["sgd"]) -> Any:
    def make() -> ModelAndOptimizer:
        made = model()
        return made, optimizer(made.parameters())

    return make


def weighed(make: Callable[[], ModelAndOptimizer], batch: Any, hardware: Hardware = CPU) -> int:
    peak = estimate_cost(make, TASK, batch, hardware).peak
    assert peak is not None
    return peak


def computed(make: Callable[[], ModelAndOptimizer], task: Any, batch: Any, hardware: Hardware = CPU) -> tuple[int, int]:
    """FLOPs and peak of real tensors and real arithmetic."""
    with Allocations() as allocations:
        made = make()
        map_tensors(batch, allocations.count)
        return measure_cost(made, partial(trace_step, made, task, batch, hardware), allocations)


def profiled(make: Callable[[], ModelAndOptimizer], batch: Any) -> int:
    """Peak of a second step as torch's own CPU allocator tells it, which also sees inside operators."""
    model, optimizer = make()
    trace_step((model, optimizer), TASK, batch, CPU)
    state = [value for part in optimizer.state.values() for value in part.values() if isinstance(value, Tensor)]
    now = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *batch, *state])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trace_step((model, optimizer), TASK, batch, CPU)
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    peak = now
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [*((model, "adam") for model in MODELS), *(("mlp", optimizer) for optimizer in OPTIMIZERS if optimizer != "adam")],
)
def test_the_estimate_is_what_real_steps_take_to_the_byte(model, optimizer):
    build, batch = MODELS[model]
    make = makes(build, OPTIMIZERS[optimizer])
    found = estimate_cost(make, TASK, batch, CPU)
    assert (found.flops, found.peak) == computed(make, TASK, batch)
    assert found.parameters == found.trainable == sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize("model", ["mlp", "simple_cnn", "encoder", "flash_encoder"])
def test_the_peak_is_what_the_allocator_hands_out_where_operators_need_nothing_inside(model):
    build, batch = MODELS[model]
    make = makes(build, OPTIMIZERS["fused_adam"])
    assert estimate_cost(make, TASK, batch, CPU).peak == profiled(make, batch)


def test_the_peak_lacks_only_the_workspace_of_a_convolution():
    build, batch = MODELS["resnet20"]
    beyond = profiled(makes(build), batch) - weighed(makes(build), batch)
    one_activation = 8 * 16 * 32 * 32 * 4
    assert 0 <= beyond <= one_activation


@pytest.mark.parametrize("model", ["simple_cnn", "encoder"])
def test_autocast_and_micro_batches_are_taken_as_the_loop_takes_them(model):
    build, batch = MODELS[model]
    hardware = Hardware("cpu", precision="bf16", micro_batch=3)
    found = estimate_cost(makes(build), TASK, batch, hardware)
    assert (found.flops, found.peak) == computed(makes(build), TASK, batch, hardware)
    whole = estimate_cost(makes(build), TASK, batch, CPU)
    assert found.flops == whole.flops
    assert weighed(makes(build), batch, hardware) < weighed(makes(build), batch)


def test_flops_are_two_for_each_multiplication_with_an_addition():
    linears = [(3072, 64), (64, 32), (32, 10)]
    forward = sum(2 * 8 * i * o for i, o in linears)
    # each layer's backward is two products of the forward's size, but the input needs no gradient
    mlp = estimate_cost(makes(MODELS["mlp"][0]), TASK, IMAGES, CPU)
    assert mlp.flops == 3 * forward - 2 * 8 * 3072 * 64
    convolution, head = 2 * 8 * 32 * 32 * 32 * 3 * 9, 2 * 8 * 32 * 32 * 32 * 10
    assert estimate_cost(makes(MODELS["simple_cnn"][0]), TASK, IMAGES, CPU).flops == 2 * convolution + 3 * head


def test_flops_know_of_attention_in_one_kernel():
    projections = 2 * 8 * 16 * (32 * 96 + 32 * 32 + 2 * 32 * 64)
    attention = 2 * 2 * 8 * 16 * 16 * 32
    forward = 2 * (projections + attention) + 2 * 8 * 32 * 10
    # the kernel computes its scores once more in backward: five products for the forward's two
    assert estimate_cost(makes(MODELS["flash_encoder"][0]), TASK, TOKENS, CPU).flops == 3 * forward + 2 * attention // 2


def test_a_model_larger_than_the_machine_is_estimated():
    width, batch = 1_000_000, (torch.rand(8, 4), torch.zeros(8, dtype=torch.int64))
    make = makes(lambda: nn.Sequential(nn.Linear(4, width), nn.Linear(width, width)), OPTIMIZERS["adam"])
    found = estimate_cost(make, TASK, batch, CPU)
    assert found.parameters == 4 * width + width + width**2 + width
    assert weighed(make, batch) > 16 * found.parameters > 10**13


def test_a_model_starts_from_a_file_of_weights(tmp_path):
    torch.save(MODELS["resnet20"][0]().state_dict(), tmp_path / "weights.pt")
    from_file = estimate_cost(
        makes(lambda: ResNet(3, SHAPE, 10, weights=str(tmp_path / "weights.pt"))), TASK, IMAGES, CPU
    )
    at_random = estimate_cost(makes(MODELS["resnet20"][0]), TASK, IMAGES, CPU)
    # the head that the file had is kept beside the model's own
    assert from_file == replace(at_random, peak=at_random.peak + 4 * (10 * 64 + 10))
    with pytest.raises(ValueError, match="of another shape"):
        estimate_cost(
            makes(lambda: ResNet(3, [1, *SHAPE[1:]], 10, weights=str(tmp_path / "weights.pt"))), TASK, IMAGES, CPU
        )


def test_a_model_may_be_placed_after_its_parameters_were_grouped():
    def make(channels_last: bool, device: str = "cpu") -> ModelAndOptimizer:
        model = MODELS["resnet20"][0]()
        optimizer = OPTIMIZERS["adam"](model.parameters())
        return Hardware(device="cpu", channels_last=channels_last).place(model).to(device), optimizer

    batch = Hardware(device="cpu").arrange(IMAGES)
    found = estimate_cost(partial(make, True), TASK, batch, CPU)
    assert (found.flops, found.peak) == computed(partial(make, True), TASK, batch)
    elsewhere = estimate_cost(partial(make, False, "meta"), TASK, IMAGES, CPU)
    assert elsewhere == estimate_cost(partial(make, False), TASK, IMAGES, CPU)


def test_frozen_parameters_get_no_gradients_and_no_state():
    trained = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):  # type: ignore[override]
            trained.append([name for name, p in model.named_parameters() if p.grad is not None])
            super().step(closure)

    def make() -> ModelAndOptimizer:
        nonlocal model
        model = MODELS["resnet20"][0]()
        return model, Watched(linear_probe(model))

    model = nn.Module()
    found = estimate_cost(make, TASK, IMAGES, CPU)
    assert trained == [["linear.weight", "linear.bias"]] * 2
    assert found.trainable == 650 < found.parameters
    assert (found.flops, found.peak) == computed(make, TASK, IMAGES)
    assert weighed(make, IMAGES) < weighed(makes(MODELS["resnet20"][0]), IMAGES) / 2


def test_muons_products_are_counted():
    batch, build = IMAGES, MODELS["mlp"][0]
    found = estimate_cost(makes(build, Muon), TASK, batch, CPU)
    assert (found.flops, found.peak) == computed(makes(build, Muon), TASK, batch)


def test_a_loss_may_hold_tensors_of_its_own():
    weights, build = torch.ones(10), MODELS["simple_cnn"][0]

    def weighted(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], weight=weights * 2)

    found = estimate_cost(makes(build), task_of(weighted), IMAGES, CPU)
    assert (found.flops, found.peak) == computed(makes(build), task_of(weighted), IMAGES)
    assert type(weights) is Tensor


class Truncated(nn.Module):
    """Reads values while it is built, as vision transformers do; its weights are tied."""

    def __init__(self):
        super().__init__()
        self.embed, self.scale = nn.Embedding(50, 16), torch.ones(16)
        self.head, self.gru = nn.Linear(16, 50, bias=False), nn.GRU(16, 16, batch_first=True)
        self.head.weight = self.embed.weight
        nn.init.trunc_normal_(self.head.weight, std=float(torch.linspace(0, 0.02, 3)[-1]))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(tokens) * self.scale)[0].mean(1))


def test_a_model_that_reads_values_while_it_is_built_is_estimated_all_the_same():
    make = makes(Truncated, OPTIMIZERS["adam"])
    found = estimate_cost(make, TASK, TOKENS, CPU)
    assert found.flops
    assert (found.flops, found.peak) == computed(make, TASK, TOKENS)
    assert found.parameters == found.trainable == sum(p.numel() for p in Truncated().parameters())


def reading(how: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    def read(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        found = loss(model, batch)
        how(found.detach())
        return found

    return read


def wrapped(value: Tensor) -> None:
    try:
        value.item()
    except RuntimeError as error:
        raise ValueError("as a config's parts are made") from error


@pytest.mark.parametrize(
    "how",
    [
        lambda value: value.item(),
        lambda value: value if value > 0 else -value,
        lambda value: value[None].nonzero(),
        lambda value: np.asarray(value),
        lambda value: value[None][value[None] > 0],
        wrapped,
    ],
)
def test_a_loss_that_reads_values_leaves_the_parameters_alone_to_be_counted(how):
    found = estimate_cost(makes(MODELS["mlp"][0]), task_of(reading(how)), IMAGES, CPU)
    assert (found.parameters, found.trainable, found.flops, found.peak) == (199082, 199082, None, None)


def test_a_detection_model_is_not_guessed_at():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    build = partial(fasterrcnn_mobilenet_v3_large_320_fpn, weights=None, weights_backbone=None, num_classes=3)
    boxes = {"boxes": torch.tensor([[1.0, 1.0, 50.0, 50.0]]), "labels": torch.tensor([1])}
    found = estimate_cost(
        makes(build),
        task_of(lambda model, batch: sum(model(*batch).values(), torch.zeros(()))),
        ([torch.rand(3, 96, 96)], [boxes]),
        CPU,
    )
    assert found.parameters == 18959754
    assert (found.flops, found.peak) == (None, None)


@pytest.mark.parametrize("layer", [lambda: nn.LSTM(16, 16), lambda: nn.Embedding(50, 16, sparse=True)])
def test_operators_that_do_not_say_what_they_take_are_not_guessed_at(layer):
    def of(model, batch):
        inputs, _ = batch
        made = model(inputs)
        return (made[0] if isinstance(made, tuple) else made).sum()

    batch = (torch.rand(5, 8, 16), LABELS) if "LSTM" in str(layer()) else TOKENS
    found = estimate_cost(makes(layer, partial(torch.optim.SGD, lr=0.1)), task_of(of), batch, CPU)
    assert found.parameters
    assert (found.flops, found.peak) == (None, None)


def test_a_real_error_is_not_taken_for_a_value_that_is_missing():
    with pytest.raises(RuntimeError, match="same reduction dim"):
        estimate_cost(makes(lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 10))), TASK, IMAGES, CPU)
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        estimate_cost(makes(nn.ReLU), TASK, IMAGES, CPU)
    with pytest.raises(ZeroDivisionError):
        estimate_cost(makes(MODELS["mlp"][0]), task_of(lambda model, batch: batch[0] / (1 // 0)), IMAGES, CPU)


def test_it_leaves_no_trace():
    class Drawing(Truncated):
        def __init__(self):
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)
            super().__init__()

    def state() -> list[Any]:
        numpys: Any = np.random.get_state()
        switches = [torch.is_grad_enabled(), torch.__future__.get_swap_module_params_on_conversion()]
        return [torch.get_rng_state().tolist(), random.getstate(), numpys[1].tolist(), numpys[2], *switches]

    before, images = state(), IMAGES[0].clone()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for build, batch in [(Drawing, TOKENS), MODELS["encoder"], MODELS["mlp"]]:
            assert estimate_cost(makes(build), TASK, batch, CPU).flops
        estimate_cost(makes(MODELS["mlp"][0]), task_of(reading(float)), IMAGES, CPU)
        assert not torch.is_grad_enabled()
    assert state() == before
    assert torch.equal(IMAGES[0], images)
    assert IMAGES[0].grad is None


def test_optimizers_take_the_kernels_they_would_on_cuda():
    from lab.assembly.cost_estimate import BuildableFakeMode

    with BuildableFakeMode():
        there, here = nn.Parameter(torch.empty(3, device="cuda")), nn.Parameter(torch.empty(3))
        for parameter, options, foreach in [
            (there, {}, True),
            (here, {}, None),
            (there, {"fused": True}, None),
            (there, {"foreach": False}, False),
        ]:
            optimizer = torch.optim.Adam([parameter], **options)
            choose_kernels(optimizer)
            assert optimizer.param_groups[0]["foreach"] is foreach


def test_views_count_once_and_what_dies_no_more():
    with Allocations() as allocations:
        held = torch.zeros(10)
        view = held[:5].view(5, 1)
        assert allocations.now == 40
        torch.zeros(100)
        assert (allocations.now, allocations.peak) == (40, 440)
        del held
        assert allocations.now == 40
        del view
        assert allocations.now == 0
    assert allocations.peak == 440
