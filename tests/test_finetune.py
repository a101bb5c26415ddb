"""Each strategy trains exactly what it names."""

import pytest
import torch
from torch import nn

from lab.finetune.full import full
from lab.finetune.last_blocks import last_blocks
from lab.finetune.linear_probe import linear_probe
from lab.finetune.scratch import scratch
from lab.models.blocks import block_names
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.models.torchvision import torchvision_model
from lab.train.loop import training_mode


def trained(model: nn.Module, groups: list[dict]) -> set[str]:
    """The names of the parameters in the groups, which must be those that require gradients."""
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = {names[id(p)] for group in groups for p in group["params"]}
    assert chosen == {name for name, p in model.named_parameters() if p.requires_grad}
    return chosen


def resnet20() -> ResNet:
    return ResNet(3, [3, 32, 32], 10)


def test_scratch_and_full_train_everything():
    model = resnet20()
    assert trained(model, full(model)) == trained(model, scratch(model)) == dict(model.named_parameters()).keys()


def test_scratch_drops_pretrained_weights_and_full_keeps_them(real_data):
    path = str(real_data / "weights" / "resnet20-12fca82f.th")
    model, published = (ResNet(3, [3, 32, 32], 10, weights=path) for _ in range(2))
    full(model)
    assert torch.equal(model.conv1.weight, published.conv1.weight)
    scratch(model)
    assert not torch.equal(model.conv1.weight, published.conv1.weight)
    assert model.bn1.running_mean.abs().max() == 0


def test_a_linear_probe_trains_the_head_alone():
    model = resnet20()
    assert trained(model, linear_probe(model)) == {"linear.weight", "linear.bias"}
    model = SimpleCNN([1, 8, 8], 10)
    assert trained(model, linear_probe(model)) == {"head.weight", "head.bias"}


def test_last_blocks_trains_the_head_and_so_many_blocks_before_it():
    model = resnet20()
    groups = last_blocks(model, num_blocks=2)
    stems = {name.rsplit(".", 2)[0] if "layer" in name else name.split(".")[0] for name in trained(model, groups)}
    assert stems == {"layer3.1", "layer3.2", "linear"}
    with pytest.raises(ValueError, match=r"layer3\.2"):
        last_blocks(resnet20(), num_blocks=20)
    with pytest.raises(ValueError, match="no module 'hed'"):
        linear_probe(resnet20(), head="hed")


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", ["layer4.0", "layer4.1", "fc"]),
        ("vit_b_16", ["encoder.layers.encoder_layer_11", "encoder.ln", "heads.head"]),
        ("mobilenet_v2", ["features.17", "features.18", "classifier.1"]),
        ("convnext_tiny", ["features.7.2", "classifier.0", "classifier.2"]),
    ],
)
def test_blocks_are_what_the_author_stacked(name, last):
    with torch.device("meta"):
        model = torchvision_model(name, 10, [3, 224, 224])
    names = block_names(model)
    assert names[-3:] == last
    covered = [id(p) for block in names for p in model.get_submodule(block).parameters()]
    assert len(covered) == len(set(covered))


def test_a_frozen_normalisation_keeps_its_statistics():
    model = resnet20()
    last_blocks(model, num_blocks=1)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training_mode(model)
    model(torch.rand(8, 3, 32, 32))
    changed = {
        name.rsplit(".", 1)[0] for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])
    }
    assert changed == {"layer3.2.bn1", "layer3.2.bn2"}
