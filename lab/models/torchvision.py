"""Any classification model of torchvision, its head fitted to the data's classes."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from lab.models.weights import load_weights, mark_pretrained
from lab.names import nearest


def torchvision_model(
    name: str,
    num_classes: int,
    shape: list[int],
    weights: str | None = None,
    dropout: float | None = None,
) -> nn.Module:
    """The model that `torchvision.models.get_model(name)` builds, from images (B, C, H, W) to logits (B, num_classes).

    weights: None, a name as torchvision spells it (`DEFAULT`, `IMAGENET1K_V1`), or a file of a state dict; a name is
    downloaded to torch's cache unless it lies there.  dropout: passed on to models that know it.
    Raises ValueError for a name or weights that do not exist, ConnectionError where a download is needed and fails.
    """
    from torchvision import models

    name = name.lower()
    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classification model {name!r}; {nearest(name, models.list_models(module=models))}"
        )
    options = {} if dropout is None else {"dropout": dropout}
    if name.split("_")[0] in ("googlenet", "inception"):
        # their auxiliary heads make training return tuples; weights by name are for models that have them
        options |= {"init_weights": True} if weights is None else {}
        options |= {"aux_logits": False} if weights is None or Path(weights).is_file() else {}
    if weights is None or Path(weights).is_file():
        model = models.get_model(name, num_classes=num_classes, **options)
        if weights:
            load_weights(model, weights)
        return fit_stem(model, shape)
    model = download(name, weights, options)
    if hasattr(model, "aux_logits"):
        vars(model)["aux_logits"] = False
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, head):
                setattr(model, head, None)
    fit_head(model, num_classes)
    mark_pretrained(model)
    return fit_stem(model, shape)


def download(name: str, weights: str, options: dict) -> nn.Module:
    from torchvision import models

    known = [member.name for member in models.get_model_weights(name)]
    if weights not in (*known, "DEFAULT"):
        raise ValueError(f"{name} has no weights {weights!r}, nor is that a file; it has: DEFAULT, {', '.join(known)}")
    try:
        return models.get_model(name, weights=weights, **options)
    except OSError as error:
        url = models.get_model_weights(name)[weights].url
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise ConnectionError(
            f"the weights {weights} of {name} are not here and could not be downloaded ({error}); fetch the file "
            f"{url.rsplit('/', 1)[-1]} where there is a network and place it in {cache}, or give its path as weights="
        ) from error


def fit_head(model: nn.Module, num_classes: int) -> None:
    """Replace the last layer, a Linear or a Conv2d, by a new one for `num_classes`, in place."""
    name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    head = deepcopy(last)
    head.weight = nn.Parameter(last.weight.new_empty(num_classes, *last.weight.shape[1:]))
    if last.bias is not None:
        head.bias = nn.Parameter(last.bias.new_empty(num_classes))
    setattr(head, "out_features" if isinstance(last, nn.Linear) else "out_channels", num_classes)
    head.reset_parameters()
    model.set_submodule(name, head)


def fit_stem(model: nn.Module, shape: list[int]) -> nn.Module:
    """Fit the first convolution to the images' channels: gray images meet the sum of the colours' filters."""
    name, stem = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if stem.in_channels == shape[0]:
        return model
    if stem.groups != 1 or shape[0] != 1:
        raise ValueError(f"images have {shape[0]} channels, the model takes {stem.in_channels}")
    gray = deepcopy(stem)
    gray.in_channels, gray.weight = 1, nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
    model.set_submodule(name, gray)
    return model
