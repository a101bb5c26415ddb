"""Weights of a model with another number of blocks: the message tells the right one."""

import pytest
import timm
import torchvision
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from lab.models.huggingface import Logits
from lab.models.resnet_cifar import ResNet
from lab.models.weights import load_matching


def depth_of(source: nn.Module, target: nn.Module) -> str:
    """The message of loading the weights of one model into the other."""
    with pytest.raises(ValueError, match="another depth") as caught:
        load_matching(target, source.state_dict(), "w.pt", "0")
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "here", "there", "message"),
    [
        (
            lambda blocks: ResNet(blocks, [3, 8, 8], 4),
            9,
            3,
            "3 blocks in layer1, layer2, layer3 where the model has 9; give model.blocks_per_stage=3",
        ),
        (
            lambda blocks: ResNet(blocks, [3, 8, 8], 4),
            1,
            2,
            "2 blocks in layer1, layer2, layer3 where the model has 1; give model.blocks_per_stage=2",
        ),
        (
            lambda depth: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=depth, embed_dim=24),
            6,
            12,
            "12 blocks in blocks where the model has 6; give the model.name= of that depth",
        ),
        (
            lambda layers: torchvision.models.VisionTransformer(32, 16, layers, 2, 24, 48),
            2,
            3,
            "3 blocks in encoder.layers where the model has 2; give the model.name= of that depth",
        ),
        (
            lambda name: torchvision.models.get_model(name, num_classes=4),
            "resnet34",
            "resnet18",
            "2 blocks in layer1, layer4 where the model has 3, 2 blocks in layer2 where the model has 4, "
            "2 blocks in layer3 where the model has 6; give the model.name= of that depth",
        ),
    ],
)
def test_weights_of_another_depth_are_refused_with_the_right_number_of_blocks(make, here, there, message):
    kind = type(make(here)).__name__
    whole = f"w.pt does not fit {kind} outside its head; it is of another depth: {message}"
    assert depth_of(make(there), make(here)) == whole


def test_another_depth_of_hugging_face_is_a_key_of_its_configuration():
    def make(depth: int) -> nn.Module:
        small = ViTConfig(
            hidden_size=24, num_hidden_layers=depth, num_attention_heads=2, intermediate_size=32, image_size=32
        )
        return Logits(ViTForImageClassification(small))

    assert depth_of(make(3), make(2)).endswith("where the model has 2; give model.config={num_hidden_layers:3}")


def test_what_another_depth_does_not_explain_is_still_listed():
    source, target = ResNet(3, [3, 8, 8], 4), ResNet(2, [1, 8, 8], 4)
    message = depth_of(source, target)
    assert "give model.blocks_per_stage=3; of another shape: conv1.weight (16, 3, 3, 3), the model's is" in message
    assert "unknown" not in message
