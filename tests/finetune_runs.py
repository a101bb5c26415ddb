"""Models, runs and comparisons that the tests of fine-tuning strategies share."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lab.data.digits import digits
from lab.finetune.groups import Groups, ParameterGroups
from lab.hardware import Hardware
from lab.models.resnet_cifar import ResNet
from lab.models.torchvision import torchvision_model
from lab.optim.schedules import constant
from lab.regularize.chain import Chain
from lab.run import Run, cadence
from lab.tasks.classification import Classification


def resnet20() -> nn.Module:
    return ResNet(3, [3, 32, 32], 10)


def resnet18() -> nn.Module:
    with torch.device("meta"):
        return torchvision_model("resnet18", 10, [3, 224, 224])


def vit_b_16() -> nn.Module:
    with torch.device("meta"):
        return torchvision_model("vit_b_16", 10, [3, 224, 224])


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("vit_tiny_patch16_224", num_classes=10)


class Reader(nn.Module):
    """Tokens (B, T) to logits (B, 4): an embedding, two LSTM layers, a linear head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 4)


# number of parameters of one block of a ViT with width d: attention, MLP of 4 d, two normalisations
def vit_block(d: int) -> int:
    return 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d


LSTM_BIASES = 2 * 2 * 4 * 32
LSTM = 4 * 32 * (16 + 32) + 4 * 32 * (32 + 32) + LSTM_BIASES
HEAD = {"resnet20": 650, "resnet18": 5130, "vit_b_16": 7690, "timm_vit": 1930, "Reader": 132}
ALL = {
    "resnet20": 269_722,
    "resnet18": 11_181_642,
    "vit_b_16": 85_806_346,
    "timm_vit": 5_526_346,
    "Reader": 1600 + LSTM + 132,
}
BN20 = 16 + 6 * (16 + 32 + 64)  # channels of ResNet-20's normalisations
BN18 = 64 + 4 * 64 + 5 * (128 + 256 + 512)  # of ResNet-18's


def groups_by_name(model: nn.Module, result: ParameterGroups | Groups) -> dict[str, set[str]]:
    """The names of each group's parameters. No parameter is in two groups; one that requires gradients is in one."""
    groups = Groups.of(result).groups
    names = {id(p): name for name, p in model.named_parameters()}
    by_name = {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}
    everything = [name for group in groups for name in (names[id(p)] for p in group["params"])]
    assert len(everything) == len(set(everything))
    assert set(everything) == {name for name, p in model.named_parameters() if p.requires_grad}
    return by_name


def trained_names(model: nn.Module, result: ParameterGroups | Groups) -> set[str]:
    return set().union(*groups_by_name(model, result).values())


def make_run(strategy: Callable, steps: int = 24, model: nn.Module | None = None, optimizer=None, **parts) -> Run:
    """A small ResNet on digits, four steps an epoch."""
    torch.manual_seed(0)
    model = model or ResNet(1, [1, 8, 8], 10)
    groups = Groups.of(strategy(model))
    sgd = (optimizer or partial(torch.optim.SGD, lr=0.05, momentum=0.9))(groups.groups)
    for group in sgd.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    pace = cadence(steps, steps_per_epoch=4)
    parts = {"hardware": Hardware("cpu"), "regularize": Chain([groups.regularizer]), **parts}
    return Run(model, Classification(10), digits(batch_size=32, seed=0), sgd, constant(sgd), pace, 0, **parts)


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_names(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}
