"""Any classification model of torchvision, with a head for the data's classes."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.models.origin import Origin, set_origin
from lab.models.state_files import State, read_weights
from lab.models.weights import find_source_head, is_counted, load_weights, output_layer
from lab.text import suggest


def torchvision_model(
    name: str,
    num_classes: int,
    shape: list[int],
    weights: str | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
) -> nn.Module:
    """The model that `torchvision.models.get_model(name)` builds, from images (B, C, H, W) to logits (B, num_classes).

    shape: (C, H, W) of the images.
    weights: name of weights in torchvision (`DEFAULT`, `IMAGENET1K_V1`), whose file is downloaded to torch's cache
        unless it is there; or file of a state dict; None for a random start.
    dropout: dropout rate, for models with such an option.
    stochastic_depth: probability of skipping the last block, decreasing linearly towards the first (Huang et al. 2016,
        arXiv:1603.09382, eq. 4), for models that skip blocks.
    Raises ValueError for an unknown name or an option that the model lacks, ConnectionError for a failed download.
    """
    from torchvision import models

    name = name.lower()
    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classification model {name!r}; {suggest(name, models.list_models(module=models))}"
        )
    is_name = weights is not None and not Path(weights).is_file()
    options: dict = {} if dropout is None else {"dropout": dropout}
    if name.split("_")[0] in ("googlenet", "inception"):
        # auxiliary heads make training return tuples, but a model must have them to load torchvision's weights
        options |= {} if weights else {"init_weights": True}
        options |= {} if is_name else {"aux_logits": False}
    if is_name:
        model = fit_stem(load_torchvision(name, str(weights), options, num_classes), shape)
    else:
        model = fit_stem(create_torchvision(name, {"num_classes": num_classes, **options}), shape)
        if weights:
            load_weights(model, weights, convert=lambda state: fit_stem_of_state(model, state))
    if stochastic_depth is not None:
        set_stochastic_depth(model, name, stochastic_depth)
    return model


def create_torchvision(name: str, options: dict) -> nn.Module:
    from torchvision import models

    try:
        model = models.get_model(name, **options)
    except TypeError as error:
        if "dropout" not in str(error):
            raise
        model = None
    rate = options.get("dropout")
    # some builders silently ignore options that they do not know
    if model is None or (rate is not None and all(m.p != rate for m in model.modules() if isinstance(m, nn.Dropout))):
        models_with_it = ", ".join(WITH_DROPOUT)
        raise ValueError(f"{name} has no dropout option; torchvision models that have one: {models_with_it}")
    return model


WITH_DROPOUT = (
    "alexnet",
    "efficientnet_*",
    "googlenet",
    "inception_v3",
    "mnasnet*",
    "mobilenet_*",
    "squeezenet*",
    "swin_*",
    "vgg*",
    "vit_*",
)
WITH_STOCHASTIC_DEPTH = ("convnext_*", "efficientnet_*", "maxvit_t", "swin_*")


def set_stochastic_depth(model: nn.Module, name: str, rate: float) -> None:
    """Scale the skip probabilities of the blocks so that the last one has `rate`. Not every builder has this option."""
    from torchvision.ops import StochasticDepth

    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not layers:
        models_with_it = ", ".join(WITH_STOCHASTIC_DEPTH)
        raise ValueError(f"{name} has no stochastic depth; torchvision models that have it: {models_with_it}")
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic_depth {rate} is not in [0, 1)")
    highest = max(layer.p for layer in layers)
    for layer in layers:
        layer.p *= rate / highest


def load_torchvision(name: str, weights: str, options: dict, num_classes: int) -> nn.Module:
    """The model with torchvision's weights of that name, and a new head if their number of classes differs."""
    from torchvision import models

    # read_weights refuses a file with code, which torchvision would unpickle
    _, digest = read_weights([cached_file(named_weights(models.get_model_weights(name), name, weights).url)])
    model = create_torchvision(name, {"weights": weights, **options})
    if hasattr(model, "aux_logits"):
        vars(model)["aux_logits"] = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, auxiliary):
                setattr(model, auxiliary, None)
    head, layer = output_layer(model)
    source_head = find_source_head(model.state_dict(), model, [head])
    new = ()
    if layer.weight.shape[0] != num_classes:
        fit_head(model, num_classes)
        new = tuple(f"{head}.{key}" for key in layer.state_dict())
    matched = sum(map(is_counted, model.state_dict())) - len(new)
    set_origin(model, Origin(f"torchvision {name} {weights}", digest, matched, new, new, source_head))
    return model


def named_weights(members: Any, name: str, weights: str, argument: str = "weights") -> Any:
    """The entry `weights` of torchvision's enumeration of weights.

    name, argument: the builder, and its argument that takes them, for the message.
    """
    known = [member.name for member in members]
    if weights not in (*known, "DEFAULT"):
        raise ValueError(
            f"{name} has no {argument} {weights!r}, nor is that a file or a run; it has: DEFAULT, {', '.join(known)}"
        )
    return members[weights]


def cached_file(url: str) -> Path:
    """The file of weights in torch's cache, which is downloaded if it is missing."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = re.search(r"-([a-f0-9]+)\.", file.name)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix and hash_prefix[1])
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"the weights {file.name} are not in torch's cache and could not be downloaded ({error}); fetch {url} "
                f"where there is a network and place it in {file.parent}, or give its path as weights="
            ) from error
    return file


def fit_head(model: nn.Module, num_classes: int) -> None:
    """Replace the output layer, a Linear or a Conv2d, with a new one for `num_classes`, in place."""
    name, last = output_layer(model)
    head = deepcopy(last)
    head.weight = nn.Parameter(last.weight.new_empty(num_classes, *last.weight.shape[1:]))
    if last.bias is not None:
        head.bias = nn.Parameter(last.bias.new_empty(num_classes))
    setattr(head, "out_features" if isinstance(last, nn.Linear) else "out_channels", num_classes)
    head.reset_parameters()
    model.set_submodule(name, head)


def fit_stem(model: nn.Module, shape: list[int]) -> nn.Module:
    """Adapt the first convolution to the channels of the images: for gray images, sum its filters over the colours."""
    name, stem = first_convolution(model)
    if stem.in_channels == shape[0]:
        return model
    if stem.groups != 1 or shape[0] != 1:
        raise ValueError(f"images have {shape[0]} channels, the model takes {stem.in_channels}")
    gray = deepcopy(stem)
    gray.in_channels, gray.weight = 1, nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
    model.set_submodule(name, gray)
    return model


def fit_stem_of_state(model: nn.Module, state: State) -> State:
    """The state, with the filters of the first convolution summed over the colours if the model takes gray images."""
    name, stem = first_convolution(model)
    weight = state.get(f"{name}.weight")
    if stem.in_channels != 1 or weight is None or weight.dim() != 4:
        return state
    return {**state, f"{name}.weight": weight.sum(1, keepdim=True)}


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
