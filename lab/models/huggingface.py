"""Any classification model of Hugging Face's transformers, on images or on tokens. No code from the hub is run."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.models.hub import hub_files
from lab.models.weights import (
    Head,
    Loaded,
    State,
    check_outside_head,
    find_source_head,
    is_counted,
    note_origin,
    read_weights,
    unwrap_state,
)
from lab.runs.weights_file import WeightsFile, find_weights
from lab.text import suggest


class Logits(nn.Module):
    """A model of transformers, from images (B, C, H, W), or from a dict of input_ids (B, T) and the like, to its
    logits (B, num_classes).  options: for each call."""

    def __init__(self, model: nn.Module, **options: Any):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        named = inputs if isinstance(inputs, Mapping) else {"pixel_values": inputs}
        return self.model(**named, **self.options).logits


def huggingface_model(
    name: str,
    num_classes: int,
    shape: list[int] | None,
    weights: str | None = None,
    config: dict | None = None,
    download: bool = False,
) -> nn.Module:
    """The model for image classification, or where there is no `shape` for sequence classification, of that name.

    name: a model type of transformers (`vit`), a folder with a config.json, or a repository of the hub.  shape:
    (C, H, W) of images.  weights: None for a random start; `DEFAULT` for those of `name`; a folder or a repository; a
    file; or a run of ours.  config: keys of its configuration to change.  download: whether to ask the hub for what is
    not in its cache.
    Raises ValueError, FileNotFoundError or ConnectionError with what there is, or what to place where.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError("model=huggingface needs transformers: pip install transformers") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    files = None
    if weights is not None:
        found = find_weights(weights)
        files = [found] if found else find_weight_files(name if weights == "DEFAULT" else weights, download)
    changed = make_config(name, shape, bool(files), {**(config or {})}, download)
    changed.num_labels = num_classes
    kind: Any = (
        transformers.AutoModelForImageClassification if shape else transformers.AutoModelForSequenceClassification
    )
    if files is None:
        made = kind.from_config(changed, dtype=torch.float32, trust_remote_code=False)
        return Logits(made, **set_image_size(made, shape))
    made, loaded, head = start_from_weights(kind, changed, files, name if weights == "DEFAULT" else str(weights))
    model = Logits(made, **set_image_size(made, shape))
    note_origin(model, loaded, head)
    return model


def make_config(name: str, shape: list[int] | None, pretrained: bool, given: dict[str, Any], download: bool) -> Any:
    """The model's configuration with the keys in `given` changed, and for a random start fitted to the images."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if name in CONFIG_MAPPING:
        known, source = AutoConfig.for_model(name), None
    else:
        folder = Path(name) if Path(name).is_dir() else None
        if folder is None and "/" not in name:
            raise ValueError(f"{name!r} is no model type of transformers, no folder; {suggest(name, CONFIG_MAPPING)}")
        source = folder or hub_files(name, ["config.json"], download)[0].parent
        known = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    if unknown := [key for key in given if not hasattr(known, key)]:
        said = suggest(unknown[0], [key for key in vars(known) if not key.startswith("_")])
        raise ValueError(f"the configuration of {name} has no key {unknown[0]!r}; {said}")
    if shape is not None:
        fitted: dict[str, Any] = {"num_channels": shape[0]}
        if source is None or not pretrained:  # else its own configuration knows what it was trained on
            fitted["image_size"] = shape[1]
        given = {key: value for key, value in fitted.items() if hasattr(known, key)} | given
    if source is None:
        return AutoConfig.for_model(name, **given)
    return AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False, **given)


def set_image_size(made: nn.Module, shape: list[int] | None) -> dict[str, Any]:
    """Options for a model that was trained on images of another size, where it can interpolate its positions."""
    size = getattr(made.config, "image_size", None)
    knows = "interpolate_pos_encoding" in inspect.signature(made.forward).parameters
    other = shape is not None and size not in (None, shape[1], shape[1:], tuple(shape[1:]))
    return {"interpolate_pos_encoding": True} if other and knows else {}


def find_weight_files(name: str, download: bool) -> list[WeightsFile]:
    """The files of a folder's or a repository's weights."""
    patterns = ["model.safetensors", "model-*-of-*.safetensors"]
    if not Path(name).is_dir():
        if "/" not in name:
            raise ValueError(f"weights={name} is no file, folder or run, and no repository of the hub (owner/name)")
        return list(map(WeightsFile, hub_files(name, patterns, download)))
    found = [WeightsFile(file) for pattern in patterns for file in sorted(Path(name).glob(pattern))]
    if not found:
        raise FileNotFoundError(f"no model.safetensors in the folder {name}; place it there")
    return found


# a base model may have been trained without the layer that sums up a sequence
IGNORED_FILES = re.compile(r"(^|\.)pooler\.")


def start_from_weights(
    kind: Any, config: Any, files: list[WeightsFile], source: str
) -> tuple[nn.Module, Loaded, Head | None]:
    """The model with the weights in `files`, where they come from, and the head that they had."""
    saved, digest = read_weights(files)
    state = unwrap_logits(unwrap_state(saved))
    with torch.device("meta"):
        made = kind.from_config(config, trust_remote_code=False)
    with torch.device("cpu"):  # it refuses to load below meta, where a sweep's configs are tried
        model, told = type(made).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,  # not what the file is in: weights are trained
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    own = {key: value.shape for key, value in model.state_dict().items() if is_counted(key)}
    misshapen = {key: theirs for key, theirs, _ in told["mismatched_keys"]}
    new = {key: shape for key, shape in own.items() if key in misshapen or key in told["missing_keys"]}
    left = {**dict.fromkeys(filter(is_counted, sorted(told["unexpected_keys"])), ()), **misshapen}
    heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    judged = [{key: shape for key, shape in keys.items() if not IGNORED_FILES.search(key)} for keys in (new, left)]
    check_outside_head(model, source, judged[0], judged[1], heads)
    ours, theirs = ([f"model.{key}" for key in keys] for keys in (new, left))
    return (
        model.train(),
        Loaded(source, digest, len(own) - len(new), ours, theirs),
        find_source_head(state, model, heads),
    )


def unwrap_logits(state: State) -> State:
    """The state of the model of transformers itself, where it is that of a `Logits`."""
    ours = all(key.startswith("model.") for key in state)
    return {key.removeprefix("model."): value for key, value in state.items()} if ours else state
