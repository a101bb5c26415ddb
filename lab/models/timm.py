"""Any classification model of timm, its head fitted to the data's classes, its stem to the data's channels."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from lab.models.hub import hub_files
from lab.models.weights import State, load_matching, load_weights, read_weights, unwrap_state
from lab.runs.weights_file import WeightsFile, find_weights
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

    weights: None; a tag of timm's (`a1_in1k`), or `DEFAULT` for that in the name or its first; a file of a state dict;
    or a run of ours. A tag's file is looked for in the hub's cache.  download: whether to fetch it where it is not.
    dropout, drop_path: before the head, and of the last block (Huang et al. 2016, arXiv:1603.09382), for models that
    know them.  Models that depend on the images' size are built for that of `shape`.
    Raises ValueError for a name, weights or an option that do not exist, FileNotFoundError or ConnectionError with what
    to place where.
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
    by_name = weights is not None and find_weights(weights) is None
    tagged = weights_tag(name, str(weights)) if by_name else None
    files = hub_files(tagged.hf_hub_id, [tagged.hf_hub_filename or "model.safetensors"], download) if tagged else []
    model = create_timm(name, shape, {"num_classes": num_classes, "in_chans": shape[0], **options})
    if tagged:
        saved, digest = read_weights([*map(WeightsFile, files)])
        state = convert_state(model, unwrap_state(saved))
        load_matching(model, state, f"timm {tagged.architecture}.{tagged.tag}", digest, classifier_names(model))
    elif weights:
        load_weights(model, weights, classifier_names(model), partial(convert_state, model))
    return model


def create_timm(name: str, shape: list[int], options: dict[str, Any]) -> nn.Module:
    import timm

    sized: dict[str, Any] = {"img_size": (shape[1], shape[2])}
    while True:
        try:
            return timm.create_model(name, **options, **sized)
        except TypeError as error:
            if "img_size" in str(error) and sized:
                sized = {}
            elif "drop_" in str(error):
                raise ValueError(f"{name} does not know the option: {error}") from error
            else:
                raise


def weights_tag(name: str, weights: str) -> Any:
    """timm's description of these weights. Raises ValueError with the tags that there are."""
    from timm.models import get_pretrained_cfg, list_pretrained

    base = name.partition(".")[0]
    tags = [full.partition(".")[2] for full in list_pretrained(f"{base}.*")]
    if weights != "DEFAULT" and weights not in tags:
        there = f"it has: DEFAULT, {', '.join(tags)}" if tags else "it has none"
        raise ValueError(f"{name} has no weights {weights!r}, nor is that a file or a run; {there}")
    found: Any = get_pretrained_cfg(name if weights == "DEFAULT" else f"{base}.{weights}")
    if not (found and found.hf_hub_id):
        raise ValueError(f"{name} has no weights on the hub; of {base} there are: {', '.join(tags) or 'none'}")
    return found


def classifier_names(model: Any) -> Sequence[str]:
    """The classifiers' names, of which models that learn from a teacher have two."""
    noted = model.pretrained_cfg["classifier"]
    return [noted] if isinstance(noted, str) else list(noted)


def convert_state(model: Any, state: State) -> State:
    """The state as timm itself would load it: names and sizes fitted by the module that the model is from, the first
    convolution's filters by the images' channels."""
    from timm.models import adapt_input_conv

    if fitted := getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None):
        state = fitted(state, model)
    first = model.pretrained_cfg.get("first_conv") or ()
    for name in [first] if isinstance(first, str) else first:
        weight, own = state.get(f"{name}.weight"), model.get_submodule(name).weight
        if weight is not None and weight.dim() == 4 and weight.shape[1] == 3 != own.shape[1]:
            state = {**state, f"{name}.weight": adapt_input_conv(own.shape[1], weight)}
    return state
