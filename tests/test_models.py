"""The models: their sizes, their published weights, their heads."""

import pytest
import torch

from lab.data.cifar10 import cifar10
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.models.state_files import unwrap_state
from lab.models.torchvision import fit_head, torchvision_model
from lab.models.weights import load_weights

# akamaster's ResNets were trained on images standardised with ImageNet's statistics
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_the_simple_cnn_is_the_tutorials():
    model = SimpleCNN(shape=[3, 32, 32], num_classes=10)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "conv.weight": (32, 3, 3, 3),
        "conv.bias": (32,),
        "head.weight": (10, 32 * 32 * 32),
        "head.bias": (10,),
    }
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_an_mlp_without_hidden_layers_is_a_linear_classifier():
    assert [tuple(p.shape) for p in MLP([1, 8, 8], 10, hidden=[]).parameters()] == [(10, 64), (10,)]


@pytest.mark.parametrize(
    ("blocks", "file", "millions"), [(3, "resnet20-12fca82f.th", 0.27), (9, "resnet56-4bfd9763.th", 0.85)]
)
def test_a_cifar_resnet_is_the_papers_key_by_key(real_data, blocks, file, millions):
    """Sizes: He et al. 2016, table 6. The weights: published ones, whose test accuracies are 91.7 and 93.4 %."""
    path = real_data / "weights" / file
    model = ResNet(blocks, shape=[3, 32, 32], num_classes=10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    published = unwrap_state(torch.load(path, map_location="cpu", weights_only=True))
    load_weights(model, str(path))
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, published[key]), key
    data = cifar10(str(real_data / "cifar10"), batch_size=100, seed=0, limit=500, **IMAGENET)
    with torch.no_grad():
        right = sum(
            (model.eval()(images).argmax(1) == labels).sum().item() for images, labels in map(data.prepare, data.test())
        )
    # under the published 0.917 and 0.934: these test images are strongly compressed
    assert right / 500 > 0.78


def test_weights_that_do_not_fit_are_refused_with_the_keys_that_differ(real_data):
    small, large = (str(real_data / "weights" / name) for name in ("resnet20-12fca82f.th", "resnet56-4bfd9763.th"))
    with pytest.raises(ValueError, match=r"3 blocks .* where the model has 9; give model\.blocks_per_stage=3$"):
        ResNet(9, [3, 32, 32], 10, weights=small)
    with pytest.raises(ValueError, match=r"9 blocks .* where the model has 3; give model\.blocks_per_stage=9$"):
        ResNet(3, [3, 32, 32], 10, weights=large)
    with pytest.raises(ValueError, match=r"conv1\.weight \(16, 3, 3, 3\), the model's is \(16, 1, 3, 3\)"):
        ResNet(3, [1, 32, 32], 10, weights=small)
    with pytest.raises(FileNotFoundError, match="place the file there"):
        ResNet(3, [3, 32, 32], 10, weights="nowhere.th")


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "googlenet", "inception_v3", "vit_b_16"]
)
def test_any_torchvision_model_takes_the_datas_shape_and_classes(name):
    size = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        model = torchvision_model(name, num_classes=7, shape=[3, size, size])
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_a_pretrained_head_is_replaced_and_gray_images_meet_the_sum_of_the_filters():
    from torchvision.models import resnet18, squeezenet1_0

    with torch.device("meta"):
        fit_head(model := resnet18(), 3)
        assert model.fc.out_features == 3
        fit_head(model := squeezenet1_0(), 3)
        assert model.classifier[1].out_channels == 3
    torch.manual_seed(0)
    colour = torchvision_model("resnet18", num_classes=2, shape=[3, 64, 64])
    torch.manual_seed(0)
    gray = torchvision_model("resnet18", num_classes=2, shape=[1, 64, 64])
    image = torch.rand(1, 1, 64, 64)
    same = torch.allclose(colour.conv1(image.expand(-1, 3, -1, -1)), gray.conv1(image), atol=1e-5)
    assert same


def test_options_of_torchvisions_models_reach_those_that_know_them():
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        model = torchvision_model("swin_t", 7, [3, 224, 224], dropout=0.3, stochastic_depth=0.5)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.5)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} >= {0.3}
    # ConvNeXt swallows options that it does not know
    for name in ("resnet18", "convnext_tiny"):
        with pytest.raises(ValueError, match=rf"{name} has no dropout option; .*vit_\*"), torch.device("meta"):
            torchvision_model(name, 7, [3, 224, 224], dropout=0.1)
    with pytest.raises(ValueError, match=r"resnet18 has no stochastic depth; .*convnext_\*"):
        torchvision_model("resnet18", 7, [3, 32, 32], stochastic_depth=0.1)


def test_a_misspelt_torchvision_model_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        torchvision_model("resnet500", 10, [3, 32, 32])
    with pytest.raises(ValueError, match="IMAGENET1K_V1"):
        torchvision_model("resnet18", 10, [3, 32, 32], weights="IMAGENET")


def test_the_first_layer_of_airbench_whitens_patches_and_is_not_trained():
    from lab.models.airbench import AirbenchNet

    torch.manual_seed(0)
    images = torch.randn(32, 3, 16, 16).cumsum(3) * 0.3  # neighbouring pixels are alike
    model = AirbenchNet([3, 16, 16], 10, widths=(8, 8, 8))
    assert not model.is_whitening
    model(images)
    filters = model.whitening.clone()
    patches = torch.nn.functional.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
    whitened = patches @ filters[:12].flatten(1).T
    covariance = whitened.T @ whitened / len(whitened)
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.05, rtol=0)
    torch.testing.assert_close(filters[12:], -filters[:12])
    model(images + 1)
    assert torch.equal(model.whitening, filters)
    model.eval()
    alone = AirbenchNet([3, 16, 16], 10, widths=(8, 8, 8), test_augmentation=False)
    alone.load_state_dict(model.state_dict())
    moved = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    views = [images, images, moved[:, :, :16, :16], moved[:, :, 2:, 2:]]
    logits = [alone.eval()(view) + alone(view.flip(3)) for view in views]
    torch.testing.assert_close(model(images), sum(logits) / 8)
