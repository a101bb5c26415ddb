"""Weights from a file into a model, key by key, without unpickling code."""

from pathlib import Path

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, path: str) -> None:
    """Load the state dict in `path` into `model`, in place.

    Understood: a state dict, one under the key `state_dict` or `model`, and the prefix `module.` of DataParallel.
    Raises FileNotFoundError, or ValueError that names the keys or shapes that differ.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; place the file there, or leave weights out to start at random")
    state = unwrap(torch.load(path, map_location="cpu", weights_only=True))
    own = model.state_dict()
    # BatchNorm's counter of batches came later than some published files, and nothing reads it
    missing = {key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")}
    unknown = state.keys() - own.keys()
    misshapen = {
        f"{key} {tuple(state[key].shape)}, the model's is {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    }
    said = [
        f"{what}: {', '.join(sorted(keys))}"
        for what, keys in {"missing": missing, "unknown": unknown, "of another shape": misshapen}.items()
        if keys
    ]
    if said:
        raise ValueError(f"{path} does not fit {type(model).__name__}; {'; '.join(said)}")
    model.load_state_dict(state, strict=False)
    mark_pretrained(model)


def mark_pretrained(model: nn.Module) -> None:
    """Note on the model that its weights come from elsewhere; what is to train from scratch drops them."""
    vars(model)["pretrained"] = True


def unwrap(saved: dict) -> dict[str, Tensor]:
    state = next((saved[key] for key in ("state_dict", "model") if isinstance(saved.get(key), dict)), saved)
    return {key.removeprefix("module."): value for key, value in state.items()}
