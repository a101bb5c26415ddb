"""A trained model as a folder that transformers loads."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from lab.models.huggingface import Logits
from lab.models.low_rank import merge_low_rank
from lab.models.quantized import merge_quantized


def save_huggingface(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors, with changes of LoRA, DoRA and QLoRA merged into the weights.

    Raises ValueError for a model that is not one of transformers.
    """
    if not isinstance(model, Logits):
        raise ValueError(f"{type(model).__name__} is no model of transformers; model=huggingface is")
    merged = deepcopy(model)
    merge_quantized(merged)
    state = {name.removeprefix("model."): tensor for name, tensor in merge_low_rank(merged.state_dict()).items()}
    inner: Any = merged.model
    plain = type(inner)(deepcopy(inner.config))
    plain.load_state_dict(state)
    plain.save_pretrained(folder)
