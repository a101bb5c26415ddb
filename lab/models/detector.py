"""Any object detector of torchvision, with a head for the data's classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from torch import nn

from lab.models.origin import Origin, set_origin
from lab.models.state_files import read_weights, unwrap_state
from lab.models.torchvision import cached_file, named_weights
from lab.models.weights import is_counted, load_matching, load_weights
from lab.text import suggest

# by family: the module that is the head, and the modules in it whose size depends on the number of classes
DETECTOR_HEADS = {
    "fasterrcnn": ("roi_heads", ("roi_heads.box_predictor",)),
    "retinanet": ("head", ("head.classification_head.cls_logits",)),
    "fcos": ("head", ("head.classification_head.cls_logits",)),
    "ssd300": ("head", ("head.classification_head.module_list",)),
    "ssdlite320": ("head", ("head.classification_head.module_list",)),
}
# builders whose backbone keeps the statistics of pretrained weights, as a batch has few images
KEEPING = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
)
WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")  # trained with no eps in these normalisations
VGG_SPLIT, VGG_END = 23, 30  # layers of VGG-16 that are in the first and in the second part of SSD's backbone


class KeptBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that normalises by its running statistics in training, too, and keeps them."""

    def train(self, mode: bool = True) -> "KeptBatchNorm2d":
        super().train(False)
        return self


def detector(
    name: str,
    num_classes: int,
    weights: str | None = None,
    weights_backbone: str | None = None,
    image_size: Sequence[int] | None = None,
) -> nn.Module:
    """The model that `torchvision.models.get_model(name)` builds for `num_classes` and the background.

    It takes a list of images, each (3, H, W) from 0 to 1, which it resizes and standardises itself. In training it also
    takes their targets, dicts with `boxes` (N, 4) and `labels` (N,) from 1, and gives a dict of losses; else it gives a
    dict with `boxes` in pixels of the image, `labels` and `scores` for each image.

    weights: name of weights in torchvision (`DEFAULT`, `COCO_V1`), whose file is downloaded to torch's cache unless it
        is there; or file of a state dict, such as a run's. The layers that depend on the number of classes start at
        random where that differs.
    weights_backbone: so for the backbone alone, from a classification model. The running statistics of a pretrained
        backbone are kept where torchvision freezes them; unlike there, their scales and shifts are trained.
    image_size: lengths of the shorter side and, at most, of the longer side to which images are resized; None for the
        model's own.
    Raises ValueError for an unknown name, ConnectionError for a failed download.
    """
    from torchvision import models

    name = name.lower()
    family = name.split("_")[0]
    known = [known for known in models.list_models(module=models.detection) if known.split("_")[0] in DETECTOR_HEADS]
    if name not in known:
        raise ValueError(f"torchvision has no detector {name!r}; {suggest(name, known)}")
    sizes = {}
    if image_size is not None:
        if family in ("ssd300", "ssdlite320"):
            raise ValueError(f"{name} takes images of one size; leave image_size out")
        sizes = dict(zip(("min_size", "max_size"), image_size, strict=True))
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes + 1, **sizes)
    vars(model)["head_name"], sized = DETECTOR_HEADS[family]
    if (weights or weights_backbone) and name in KEEPING:
        keep_statistics(model.backbone)
    if weights and Path(weights).is_file():
        load_weights(model, weights, sized)
    elif weights:
        load_published(model, name, weights, sized)
    elif weights_backbone:
        load_backbone(model, name, weights_backbone)
    return model


def keep_statistics(module: Any) -> None:
    """Make every BatchNorm2d below `module` a KeptBatchNorm2d, with the same state dict, in place."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = KeptBatchNorm2d
            part.train(False)


def load_published(model: nn.Module, name: str, weights: str, heads: Sequence[str]) -> None:
    """Load weights that torchvision knows by name into a detector, in place, and set its origin.  heads: as
    `load_weights` takes them."""
    from torchvision import models

    member = named_weights(models.get_model_weights(name), name, weights)
    contents, digest = read_weights([cached_file(member.url)])
    state = unwrap_state(contents)
    if name in WITHOUT_EPS and member.name == "COCO_V1":
        # the layers divide by sqrt(var + eps), these weights are for sqrt(var)
        eps = nn.BatchNorm2d(1).eps
        state = {key: value - eps if key.endswith("running_var") else value for key, value in state.items()}
    load_matching(model, state, f"torchvision {name} {member.name}", digest, heads)


def load_backbone(model: Any, name: str, weights: str) -> None:
    """Load the weights of a classification model into the backbone, in place, and set the model's origin.

    weights: a file, or a name in torchvision. Raises ValueError where they do not fit.
    """
    if name.startswith("ssdlite"):
        raise ValueError(
            f"{name} has a smaller backbone than the published weights; give weights= of a whole detector, or leave "
            "weights_backbone out"
        )
    file, source = Path(weights), weights
    if not file.is_file():
        member = named_weights(backbone_weights(name), name, weights, "weights_backbone")
        file = cached_file(member.url)
        source = f"torchvision {type(member).__name__.removesuffix('_Weights')} {weights}"
    contents, digest = read_weights([file])
    found = {backbone_key(name, key): value for key, value in unwrap_state(contents).items()}
    own = {key: value for key, value in model.backbone.state_dict().items() if is_counted(key)}
    matching = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    body = [key for key in own if key.startswith("body.") or (name.startswith("ssd") and backbone_has(key))]
    if missing := [key for key in body if key not in matching]:
        raise ValueError(
            f"{weights} does not fit the backbone of {name}; it lacks {missing[0]} and {len(missing) - 1} more"
        )
    model.backbone.load_state_dict(matching, strict=False)
    counted = filter(is_counted, model.state_dict())
    new = tuple(key for key in counted if key.removeprefix("backbone.") not in matching)
    left = tuple(key for key in found if key not in matching)
    set_origin(model, Origin(source, digest, len(matching), new, left, None))


def backbone_key(name: str, key: str) -> str:
    """A key of a classification model's state dict as the backbone has it."""
    if not name.startswith("ssd300"):
        return f"body.{key.removeprefix('features.')}"
    part, _, rest = key.partition(".")
    number, _, tensor = rest.partition(".")
    if part != "features" or not number.isdigit() or int(number) >= VGG_END:
        return key
    layer = int(number)
    return f"features.{layer}.{tensor}" if layer < VGG_SPLIT else f"extra.0.{layer - VGG_SPLIT}.{tensor}"


def backbone_has(key: str) -> bool:
    """Whether a tensor of SSD's backbone is one of VGG-16's layers."""
    parts = key.split(".")
    layers = VGG_END - VGG_SPLIT
    return parts[0] == "features" or (parts[:2] == ["extra", "0"] and parts[2].isdigit() and int(parts[2]) < layers)


def backbone_weights(name: str) -> Any:
    """torchvision's enumeration of the weights that a builder takes for its backbone."""
    from torchvision import models

    hint = get_type_hints(models.get_model_builder(name))["weights_backbone"]
    return next(kind for kind in get_args(hint) if kind is not type(None))
