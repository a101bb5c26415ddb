"""Any classification model of Hugging Face's transformers, on images or on tokens. No code from the hub is run."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.models.detr import Detr, check_object_detector, image_processor, object_detectors
from lab.models.hub import hub_files
from lab.models.origin import Origin, set_origin
from lab.models.state_files import State, read_weights, unwrap_state
from lab.models.weights import check_outside_heads, find_source_head, is_counted
from lab.text import suggest

HEADS = {
    "image_classification": "AutoModelForImageClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
    "object_detection": "AutoModelForObjectDetection",
}
LANGUAGE_HEADS = ("seq2seq", "causal")
FITTED = ("vocab_size", "pad_token_id")  # keys of a configuration that the data decides


class Logits(nn.Module):
    """Wraps a transformers model: from images (B, C, H, W), or a dict of input_ids (B, T), attention_mask and so on, to
    logits, (B, num_classes) or (B, T, V).

    options: keyword arguments of each call of the model.
    """

    def __init__(self, model: nn.Module, **options: Any):
        super().__init__()
        self.model, self.options = model, options
        # kept with a run, which can be built from it where the folder or the hub is out of reach
        configuration: Any = getattr(model, "config", None)
        self.files = {"config.json": configuration.to_json_string().encode()} if configuration else {}

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        by_name = inputs if isinstance(inputs, Mapping) else {"pixel_values": inputs}
        return self.model(**by_name, **self.options).logits


class Seq2SeqLogits(Logits):
    """An encoder and decoder, which encodes a sentence once when it decodes token by token (`lab.models.decoding`)."""

    def start(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        encoder: Any = self.model.get_encoder()  # type: ignore[operator]
        encoded = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        prefix = inputs["input_ids"].new_empty((len(encoded), 0))
        return {"encoder_outputs": (encoded,), "attention_mask": inputs["attention_mask"], "decoder_input_ids": prefix}

    def advance(self, tokens: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        state = {**state, "decoder_input_ids": torch.cat([state["decoder_input_ids"], tokens[:, None]], 1)}
        return self.model(**state, use_cache=False).logits[:, -1], state


class CausalLogits(Logits):
    """A decoder alone, which passes the whole text for each token that it decodes (`lab.models.decoding`)."""

    def start(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"input_ids": inputs["input_ids"]}

    def advance(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state = {"input_ids": torch.cat([state["input_ids"], tokens[:, None]], 1)}
        return self.model(**state, use_cache=False).logits[:, -1], state


def huggingface_model(
    name: str,
    num_classes: int | None,
    shape: list[int] | None,
    weights: str | None = None,
    config: dict | None = None,
    download: bool = False,
    head: str | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
    image_size: list[int] | None = None,
) -> nn.Module:
    """The model of that name, with a head.

    name: model type of transformers (`vit`), folder with a config.json, or repository of the hub.
    head: `image_classification`, `sequence_classification`, `object_detection`, `seq2seq` or `causal`; None: the first
        for images of one `shape`, the third for a type that detects objects, else the second.
    num_classes: number of outputs of a classification head.  shape: (C, H, W) of the images; None for tokens, and for
        images of any size.
    vocab_size: number of tokens of a random start.  max_length: the longest sequence of the data.
    weights: folder, repository or file; `DEFAULT` for the weights of `name`; None for a random start.
    image_size: lengths of the sides to which a detector resizes images (`lab.models.detr.image_processor`).
    config: keys of the model's configuration to change, with their values.
    download: whether to fetch files that the hub's cache lacks.
    Raises ValueError, FileNotFoundError or ConnectionError with the known names, or the place to put the files.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError("model=huggingface needs transformers: pip install transformers") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    source = name if weights == "DEFAULT" else weights
    files = None if weights is None else find_weight_files(weights, str(source), download)
    changes = {**({} if vocab_size is None or files else {"vocab_size": vocab_size, "pad_token_id": 0})}
    configuration = make_configuration(name, shape, bool(files), {**changes, **(config or {})}, download)
    head = head or default_head(shape, configuration.model_type)
    if head not in HEADS:
        raise ValueError(f"head={head} is no head; {suggest(head, HEADS)}")
    if image_size is not None and head != "object_detection":
        raise ValueError(f"image_size is for head=object_detection, not for {head}")
    if head not in LANGUAGE_HEADS:
        configuration.num_labels = num_classes
    check_tokens(configuration, name, vocab_size, max_length)
    auto_class: Any = getattr(transformers, HEADS[head])
    wrapper: Callable[..., nn.Module] = {"seq2seq": Seq2SeqLogits, "causal": CausalLogits}.get(head, Logits)
    if head == "object_detection":
        check_object_detector(configuration.model_type)
        folder = Path(name) if Path(name).is_dir() else None
        wrapper = partial(Detr, processor=image_processor(configuration.model_type, folder, image_size))
    options = {"use_cache": False} if head in LANGUAGE_HEADS else {}
    if files is None:
        inner = auto_class.from_config(configuration, dtype=torch.float32, trust_remote_code=False)
        return wrapper(inner, **options, **image_size_options(inner, shape))
    inner, origin = load_pretrained(auto_class, configuration, files, str(source))
    model = wrapper(inner, **options, **image_size_options(inner, shape))
    set_origin(model, origin)
    return model


def default_head(shape: list[int] | None, model_type: str) -> str:
    if shape:
        return "image_classification"
    return "object_detection" if model_type in object_detectors() else "sequence_classification"


def check_tokens(configuration: Any, name: str, vocab_size: int | None, max_length: int | None) -> None:
    """Raises ValueError where the data has more tokens, or longer sequences, than the model."""
    known, positions = (getattr(configuration, key, None) for key in ("vocab_size", "max_position_embeddings"))
    if vocab_size is not None and known is not None and known < vocab_size:
        raise ValueError(f"{name} knows {known} tokens, the data has {vocab_size}; give its own: data.tokenizer={name}")
    if max_length is not None and positions is not None and positions < max_length:
        raise ValueError(
            f"{name} has {positions} positions, the data's texts up to {max_length} tokens; give "
            f"data.max_length={positions}"
        )


def make_configuration(
    name: str, shape: list[int] | None, pretrained: bool, changes: dict[str, Any], download: bool
) -> Any:
    """The model's configuration with `changes` and the channels of the images; for a random start, also their size."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if name in CONFIG_MAPPING:
        known, folder = AutoConfig.for_model(name), None
    else:
        folder = Path(name) if Path(name).is_dir() else None
        if folder is None and "/" not in name:
            raise ValueError(
                f"{name!r} is neither a model type of transformers nor a folder; {suggest(name, CONFIG_MAPPING)}"
            )
        folder = folder or hub_files(name, ["config.json"], download)[0].parent
        known = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    changes = {key: value for key, value in changes.items() if key not in FITTED or hasattr(known, key)}
    if unknown := [key for key in changes if not hasattr(known, key)]:
        nearest = suggest(unknown[0], [key for key in vars(known) if not key.startswith("_")])
        raise ValueError(f"the configuration of {name} has no key {unknown[0]!r}; {nearest}")
    if shape is not None:
        fitted: dict[str, Any] = {"num_channels": shape[0]}
        if folder is None or not pretrained:  # a pretrained model's configuration has the image size of its training
            fitted["image_size"] = shape[1]
        changes = {key: value for key, value in fitted.items() if hasattr(known, key)} | changes
    if folder is None:
        return AutoConfig.for_model(name, **changes)
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **changes)


def image_size_options(inner: nn.Module, shape: list[int] | None) -> dict[str, Any]:
    """Call options with which the model interpolates positions, if the images differ from its own size and it can."""
    size = getattr(inner.config, "image_size", None)
    can_interpolate = "interpolate_pos_encoding" in inspect.signature(inner.forward).parameters
    differs = shape is not None and size not in (None, shape[1], shape[1:], tuple(shape[1:]))
    return {"interpolate_pos_encoding": True} if differs and can_interpolate else {}


def find_weight_files(weights: str, source: str, download: bool) -> list[Path]:
    """The files of weights: `weights` itself if it is a file, else those in the folder or repository `source`."""
    if Path(weights).is_file():
        return [Path(weights)]
    patterns = ["model.safetensors", "model-*-of-*.safetensors"]
    if not Path(source).is_dir():
        if "/" not in source:
            raise ValueError(f"weights={source} is not a file, a folder, a run or a repository of the hub (owner/name)")
        return hub_files(source, patterns, download)
    files = [file for pattern in patterns for file in sorted(Path(source).glob(pattern))]
    if not files:
        raise FileNotFoundError(f"no model.safetensors in the folder {source}; place it there")
    return files


# tensors that may be missing or unknown: a base model may have been trained without its pooling layer
OPTIONAL_TENSORS = re.compile(r"(^|\.)pooler\.")


def load_pretrained(auto_class: Any, configuration: Any, files: list[Path], source: str) -> tuple[nn.Module, Origin]:
    """The inner model with the weights in `files`, and their origin with names as in the `Logits` around it."""
    contents, digest = read_weights(files)
    state = unwrap_logits(unwrap_state(contents))
    with torch.device("meta"):
        empty = auto_class.from_config(configuration, trust_remote_code=False)
    with torch.device("cpu"):  # from_pretrained fails inside torch.device("meta"), in which a sweep is checked
        inner, report = type(empty).from_pretrained(
            None,
            config=configuration,
            state_dict=state,
            dtype=torch.float32,  # whatever the file's dtype, as the weights are trained
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    own = {key: value.shape for key, value in inner.state_dict().items() if is_counted(key)}
    misshapen = {key: shape for key, shape, _ in report["mismatched_keys"]}
    new = {key: shape for key, shape in own.items() if key in misshapen or key in report["missing_keys"]}
    left = {**dict.fromkeys(filter(is_counted, sorted(report["unexpected_keys"])), ()), **misshapen}
    heads = [name for name, _ in inner.named_children() if name != inner.base_model_prefix]
    check_outside_heads(inner, source, without_optional(new), without_optional(left), heads)
    origin = Origin(
        source,
        digest,
        matched=len(own) - len(new),
        new=tuple(f"model.{key}" for key in new),
        left=tuple(f"model.{key}" for key in left),
        source_head=find_source_head(state, inner, heads),
    )
    return inner.train(), origin


def without_optional(shapes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: shape for key, shape in shapes.items() if not OPTIONAL_TENSORS.search(key)}


def unwrap_logits(state: State) -> State:
    """The state of the transformers model itself, if `state` is that of a `Logits` around it."""
    is_wrapped = all(key.startswith("model.") for key in state)
    return {key.removeprefix("model."): value for key, value in state.items()} if is_wrapped else state
