"""A model's blocks, its head, and what it repeats."""

from functools import partial

import pytest
import torch
from torch import nn

from lab.finetune.discriminative import discriminative
from lab.finetune.gradual import gradual
from lab.finetune.last_blocks import last_blocks
from lab.finetune.linear_probe import linear_probe
from lab.models.blocks import block_names, head_name, repeated_blocks
from lab.models.simple_cnn import SimpleCNN
from lab.models.torchvision import torchvision_model
from tests.finetune_runs import Reader, groups_by_name, resnet18, trained_names, vit_b_16


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


def test_what_is_around_the_whole_of_a_model_is_no_block_of_it():
    class Around(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

    inside = SimpleCNN([1, 8, 8], 10)
    assert block_names(Around(inside)) == [f"model.{name}" for name in block_names(inside)]
    assert head_name(Around(inside)) == "model.head", "not all of it, to which linear_probe is the same as full"
    assert block_names(Around(nn.LSTM(2, 2))) == ["model"]


def test_the_stack_is_what_a_model_repeats_and_the_head_what_its_library_says():
    assert repeated_blocks(vit_b_16()) == [f"encoder.layers.encoder_layer_{n}" for n in range(12)]
    assert repeated_blocks(Reader()) == repeated_blocks(SimpleCNN([1, 8, 8], 10)) == []
    assert block_names(nn.Linear(2, 2)) == [""]
    layer = partial(nn.TransformerEncoderLayer, 8, 2, dim_feedforward=8)
    parts = {"tokens": nn.Embedding(9, 8), "places": nn.Embedding(9, 8), "layers": nn.Sequential(layer(), layer())}
    assert repeated_blocks(nn.Sequential(nn.ModuleDict(parts), nn.Linear(8, 2))) == ["0.layers.0", "0.layers.1"]
    alone = nn.Linear(2, 2)
    assert trained_names(alone, gradual(alone)) == {"weight", "bias"}
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        convnext = timm.create_model("convnext_atto", num_classes=10)
    assert trained_names(convnext, linear_probe(convnext)) == {"head.fc.weight", "head.fc.bias"}
    assert trained_names(convnext, discriminative(convnext)) == dict(convnext.named_parameters()).keys()


def test_a_normalisation_between_blocks_is_no_block_of_its_own():
    model = vit_b_16()
    last = {name for name, _ in model.named_parameters() if "encoder_layer_11" in name}
    assert trained_names(model, last_blocks(model, num_blocks=1)) == {
        *last,
        *("encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"),
    }
    assert trained_names(model, last_blocks(model, num_blocks=0)) == {"heads.head.weight", "heads.head.bias"}
    model = resnet18()
    assert groups_by_name(model, gradual(model))["conv1"] == {"conv1.weight", "bn1.weight", "bn1.bias"}
