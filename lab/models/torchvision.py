"""Any classification model of torchvision, its head fitted to the data's classes."""

import re
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from lab.models.weights import (
    Loaded,
    State,
    find_source_head,
    is_counted,
    load_weights,
    note_origin,
    output_layer,
    read_weights,
)
from lab.runs.weights_file import WeightsFile, find_weights
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

    weights: None, a name as torchvision spells it (`DEFAULT`, `IMAGENET1K_V1`), a file of a state dict, or a run of
    ours; a name is downloaded to torch's cache unless it lies there.  dropout: passed on to models that know it.
    stochastic_depth: the probability with which the last block is left out, falling linearly towards the first (Huang
    et al. 2016, arXiv:1603.09382, eq. 4), for models that know it.
    Raises ValueError for a name, weights or an option that do not exist, ConnectionError where a download is needed and
    fails.
    """
    from torchvision import models

    name = name.lower()
    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classification model {name!r}; {suggest(name, models.list_models(module=models))}"
        )
    by_name = weights is not None and find_weights(weights) is None
    options: dict = {} if dropout is None else {"dropout": dropout}
    if name.split("_")[0] in ("googlenet", "inception"):
        # their auxiliary heads make training return tuples; weights by name are for models that have them
        options |= {} if weights else {"init_weights": True}
        options |= {} if by_name else {"aux_logits": False}
    if by_name:
        model = fit_stem(download_model(name, str(weights), options, num_classes), shape)
    else:
        model = fit_stem(create_torchvision(name, {"num_classes": num_classes, **options}), shape)
        if weights:
            load_weights(model, weights, convert=lambda state: with_stem_of(model, state))
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
    # some swallow options that they do not know
    if model is None or (rate is not None and all(m.p != rate for m in model.modules() if isinstance(m, nn.Dropout))):
        raise ValueError(f"{name} knows no dropout; of torchvision's models do: {', '.join(WITH_DROPOUT)}")
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
    """Scale the probabilities of its blocks to `rate` at the last one: not every builder takes the option."""
    from torchvision.ops import StochasticDepth

    found = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not found:
        there = ", ".join(WITH_STOCHASTIC_DEPTH)
        raise ValueError(f"{name} knows no stochastic depth; of torchvision's models do: {there}")
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic_depth {rate} is not in [0, 1)")
    last = max(module.p for module in found)
    for module in found:
        module.p *= rate / last


def download_model(name: str, weights: str, options: dict, num_classes: int) -> nn.Module:
    """The model with the weights of that name, its head replaced where they are for another number of classes."""
    from torchvision import models

    known = [member.name for member in models.get_model_weights(name)]
    if weights not in (*known, "DEFAULT"):
        raise ValueError(
            f"{name} has no weights {weights!r}, nor is that a file or a run; it has: DEFAULT, {', '.join(known)}"
        )
    file = is_cached(models.get_model_weights(name)[weights].url)
    # torchvision would unpickle whatever lies there: what holds code is refused first
    digest = read_weights([WeightsFile(file)])[1]
    model = create_torchvision(name, {"weights": weights, **options})
    if hasattr(model, "aux_logits"):
        vars(model)["aux_logits"] = False
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, head):
                setattr(model, head, None)
    head, layer = output_layer(model)
    kept = find_source_head(model.state_dict(), model, [head])
    new = []
    if layer.weight.shape[0] != num_classes:
        fit_head(model, num_classes)
        new = [f"{head}.{key}" for key in layer.state_dict()]
    matched = sum(map(is_counted, model.state_dict())) - len(new)
    note_origin(model, Loaded(f"torchvision {name} {weights}", digest, matched, new, new), kept)
    return model


def is_cached(url: str) -> Path:
    """The file of weights in torch's cache, downloaded where it does not lie there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        sha256 = re.search(r"-([a-f0-9]+)\.", file.name)  # its first digits
        try:
            torch.hub.download_url_to_file(url, str(file), sha256 and sha256[1])
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"the weights {file.name} are not here and could not be downloaded ({error}); fetch {url} where there "
                f"is a network and place it in {file.parent}, or give its path as weights="
            ) from error
    return file


def fit_head(model: nn.Module, num_classes: int) -> None:
    """Replace the last layer, a Linear or a Conv2d, by a new one for `num_classes`, in place."""
    name, last = output_layer(model)
    head = deepcopy(last)
    head.weight = nn.Parameter(last.weight.new_empty(num_classes, *last.weight.shape[1:]))
    if last.bias is not None:
        head.bias = nn.Parameter(last.bias.new_empty(num_classes))
    setattr(head, "out_features" if isinstance(last, nn.Linear) else "out_channels", num_classes)
    head.reset_parameters()
    model.set_submodule(name, head)


def fit_stem(model: nn.Module, shape: list[int]) -> nn.Module:
    """Fit the first convolution to the images' channels: gray images meet the sum of the colours' filters."""
    name, stem = first_convolution(model)
    if stem.in_channels == shape[0]:
        return model
    if stem.groups != 1 or shape[0] != 1:
        raise ValueError(f"images have {shape[0]} channels, the model takes {stem.in_channels}")
    gray = deepcopy(stem)
    gray.in_channels, gray.weight = 1, nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
    model.set_submodule(name, gray)
    return model


def with_stem_of(model: nn.Module, state: State) -> State:
    """The state with its first convolution's filters summed over the colours, where the model's sees gray images."""
    name, stem = first_convolution(model)
    weight = state.get(f"{name}.weight")
    if stem.in_channels != 1 or weight is None or weight.dim() != 4:
        return state
    return {**state, f"{name}.weight": weight.sum(1, keepdim=True)}


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
