"""Train a detector with the last layers of its backbone, freeze the layers before them, as torchvision's
`trainable_backbone_layers` does."""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only


def backbone_layers(model: nn.Module, trainable: int = 3, backbone_lr_scale: float = 1.0) -> ParameterGroups:
    """Two groups: the last `trainable` layers of the backbone, and all of the model outside of the backbone.

    Of a ResNet there are 5 layers: the first convolution, and the four stages; of a MobileNet 6, each but the last
    begins with a stride. Frozen normalisations keep their running statistics (see lab.train.scoring.set_training_mode).
    backbone_lr_scale: multiplier on the learning rate of the backbone.
    Raises ValueError for a model without `backbone.body`, and for a number of layers that the backbone does not have.
    """
    body = getattr(getattr(model, "backbone", None), "body", None)
    if not isinstance(body, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no backbone.body, which torchvision's detectors with a feature pyramid have; "
            "give finetune_strategy=last_blocks, or finetune_strategy=only with the names of the parameters to train"
        )
    layers = split_body(body)
    if not 0 <= trainable <= len(layers):
        raise ValueError(f"trainable={trainable} is not from 0 to {len(layers)}, the number of layers of the backbone")
    last = [p for layer in layers[len(layers) - trainable :] for module in layer for p in module.parameters()]
    inside = {id(p) for p in body.parameters()}
    outside = [p for p in model.parameters() if id(p) not in inside]
    groups = train_only(model, {"backbone": last, "detector": outside})
    for group in groups:
        if group["name"] == "backbone":
            group["lr_scale"] = backbone_lr_scale
    return groups


def split_body(body: nn.Module) -> list[list[nn.Module]]:
    """The modules of each layer of a backbone, in order."""
    children = list(body.named_children())
    strided = [place for place, (_, child) in enumerate(children) if getattr(child, "_is_cn", False)]
    stages = [place for place, (name, _) in enumerate(children) if name.startswith("layer")]
    starts = [0, *strided, len(children) - 1] if strided else [0, *stages]
    ends = [*starts[1:], len(children)]
    return [[child for _, child in children[start:end]] for start, end in zip(starts, ends, strict=True)]
