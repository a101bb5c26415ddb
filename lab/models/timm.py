"""Any classification model of timm, with a head for the data's classes and a stem for the data's channels."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lab.models.hub import hub_files
from lab.models.state_files import State, read_weights, unwrap_state
from lab.models.weights import load_matching, load_weights
from lab.text import suggest


def timm_model(
    name: str,
    num_classes: int,
    shape: list[int],
    weights: str | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    download: bool = False,
) -> nn.Module:
    """The model that `timm.create_model(name)` builds, from images (B, C, H, W) to logits (B, num_classes).

    shape: (C, H, W) of the images; models that depend on the image size are built for it.
    weights: tag of timm (`a1_in1k`), or file of a state dict; `DEFAULT` for the tag in the name, or else the first tag;
        None for a random start.
    dropout: dropout rate before the head.  drop_path: rate of the last block (Huang et al. 2016, arXiv:1603.09382).
    download: whether to fetch the file of a tag if the hub's cache lacks it.
    Raises ValueError for an unknown name, tag or option, and FileNotFoundError or ConnectionError for missing weights,
    with the place to put them.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("model=timm needs timm: pip install timm") from error
    known = timm.list_models()
    if name not in known and name not in timm.list_pretrained(f"{name.partition('.')[0]}.*"):
        raise ValueError(f"timm has no model {name!r}; {suggest(name, known)}")
    rates = {"drop_rate": dropout, "drop_path_rate": drop_path}
    options = {option: rate for option, rate in rates.items() if rate is not None}
    is_tag = weights is not None and not Path(weights).is_file()
    tag = find_tag(name, str(weights)) if is_tag else None
    files = hub_files(tag.hf_hub_id, [tag.hf_hub_filename or "model.safetensors"], download) if tag else []
    model = create_timm(name, shape, {"num_classes": num_classes, "in_chans": shape[0], **options})
    if tag:
        contents, digest = read_weights(files)
        state = convert_timm_state(model, unwrap_state(contents))
        load_matching(model, state, f"timm {tag.architecture}.{tag.tag}", digest, classifier_names(model))
    elif weights:
        load_weights(model, weights, classifier_names(model), partial(convert_timm_state, model))
    return model


def create_timm(name: str, shape: list[int], options: dict[str, Any]) -> nn.Module:
    import timm

    size: dict[str, Any] = {"img_size": (shape[1], shape[2])}
    while True:
        try:
            return timm.create_model(name, **options, **size)
        except TypeError as error:
            if "img_size" in str(error) and size:
                size = {}
            elif "drop_" in str(error):
                raise ValueError(f"{name} does not know the option: {error}") from error
            else:
                raise


def find_tag(name: str, weights: str) -> Any:
    """timm's description of the weights with this tag. Raises ValueError that lists the model's tags."""
    from timm.models import get_pretrained_cfg, list_pretrained

    base = name.partition(".")[0]
    tags = [full.partition(".")[2] for full in list_pretrained(f"{base}.*")]
    if weights != "DEFAULT" and weights not in tags:
        choices = f"it has: DEFAULT, {', '.join(tags)}" if tags else "it has none"
        raise ValueError(f"{name} has no weights {weights!r}, nor is that a file or a run; {choices}")
    description: Any = get_pretrained_cfg(name if weights == "DEFAULT" else f"{base}.{weights}")
    if not (description and description.hf_hub_id):
        raise ValueError(f"{name} has no weights on the hub; of {base} there are: {', '.join(tags) or 'none'}")
    return description


def classifier_names(model: Any) -> Sequence[str]:
    """The names of the classifiers, of which a distilled model has two."""
    names = model.pretrained_cfg["classifier"]
    return [names] if isinstance(names, str) else list(names)


def convert_timm_state(model: Any, state: State) -> State:
    """The state converted as timm does on loading: the model's module converts names and sizes, and the filters of the
    first convolution are adapted to the channels of the images."""
    from timm.models import adapt_input_conv

    if convert := getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None):
        state = convert(state, model)
    first = model.pretrained_cfg.get("first_conv") or ()
    for name in [first] if isinstance(first, str) else first:
        weight, own = state.get(f"{name}.weight"), model.get_submodule(name).weight
        if weight is not None and weight.dim() == 4 and weight.shape[1] == 3 != own.shape[1]:
            state = {**state, f"{name}.weight": adapt_input_conv(own.shape[1], weight)}
    return state
