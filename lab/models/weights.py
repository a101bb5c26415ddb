"""Weights from a file into a model, key by key: what matched, what is new, what was left. No code is unpickled."""

import hashlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.models.blocks import head_name, is_within
from lab.runs.weights_file import WeightsFile, find_weights
from lab.text import join_names

State = dict[str, Tensor]
Head = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Loaded:
    """Where a model's weights come from.

    source: as it was asked for.  sha256: of the file; of several, that of their hashes.  matched: tensors that were
    taken over.  new: those of the model that were not, being of another shape or not in the file.  left: those of the
    file that the model did not take. BatchNorm's counter of batches is in none of these.
    """

    source: str
    sha256: str
    matched: int
    new: list[str]
    left: list[str]

    def __str__(self) -> str:
        said = f"{self.matched} of {self.matched + len(self.new)} tensors from {self.source}"
        for what, names in (("new", self.new), ("left", self.left)):
            said += f"; {what}: {join_names(names)}" if names else ""
        # of as many classes, though perhaps of others
        return said if self.new else f"{said}, the head too: new_head=true draws another"


def load_weights(
    model: nn.Module,
    weights: str,
    heads: Sequence[str] | None = None,
    convert: Callable[[State], State] = lambda state: state,
) -> None:
    """Load a file, or the final weights of a run of ours, into `model`, in place, and mark the model.

    weights: as `lab.runs.weights_file.find_weights` understands it.  heads: the modules that the file may lack or have in another
    shape; None: the model's last block.  convert: the file's state into one with the model's names.
    Raises FileNotFoundError, or ValueError that names what differs outside the head.
    """
    found = find_weights(weights)
    if found is None:
        kind = "a folder that holds no run" if Path(weights).is_dir() else "no file and no run"
        raise FileNotFoundError(
            f"no weights at {weights}; place the file there, or leave weights out to start at random. It is {kind}, "
            f"and {type(model).__name__} knows no weights by name"
        )
    saved, digest = read_weights([found])
    load_matching(model, convert(unwrap_state(saved)), weights, digest, heads)


def load_matching(model: nn.Module, state: State, source: str, digest: str, heads: Sequence[str] | None = None) -> None:
    """Load what fits of `state` into `model`, in place, and mark the model. Raises ValueError as `load_weights`.

    source, digest: for `Loaded`.
    """
    heads = heads or [head_name(model)]
    own = model.state_dict()
    fits = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    held = dict(model.named_parameters(remove_duplicate=False))
    taken = {id(held[key]) for key in fits if key in held}  # also by the other names of a tied parameter
    new = [key for key in own if key not in fits and is_counted(key) and id(held.get(key)) not in taken]
    left = [key for key in state if key not in fits and is_counted(key)]
    check_outside_head(
        model, source, {key: own[key].shape for key in new}, {key: state[key].shape for key in left}, heads
    )
    model.load_state_dict(fits, strict=False)
    note_origin(
        model, Loaded(source, digest, sum(map(is_counted, fits)), new, left), find_source_head(state, model, heads)
    )


def note_origin(model: nn.Module, loaded: Loaded, source_head: Head | None) -> None:
    """Note on the model, in attributes that are no part of its state:

    pretrained: True.  loaded: what it has from elsewhere.  new_parameters: the names of those it does not.
    source_head: weight (K, D) and bias (K,) or None of the linear layer that the weights end in, for the K classes that
    they were trained for; None where there is none.
    """
    parameters = {name for name, _ in model.named_parameters()}
    vars(model)["pretrained"] = True
    vars(model)["loaded"] = loaded
    vars(model)["new_parameters"] = frozenset(parameters & {*loaded.new})
    vars(model)["source_head"] = source_head


def draw_head(model: nn.Module, heads: Sequence[str] | None = None) -> None:
    """Draw the layer that gives the logits anew, in place, though weights for it were there.

    heads: where it lies; None: in the model's last block. Raises ValueError where no linear or convolutional layer is.
    """
    names = []
    for head in heads or [head_name(model)]:
        name, layer = output_layer(model, head)
        layer.reset_parameters()
        names += [f"{name}.{key}" for key in layer.state_dict()]
    if loaded := vars(model).get("loaded"):
        names = [name for name in names if name not in loaded.new]
        new, left = [*loaded.new, *names], [*loaded.left, *names]
        note_origin(
            model, replace(loaded, matched=loaded.matched - len(names), new=new, left=left), vars(model)["source_head"]
        )


def output_layer(model: nn.Module, below: str = "") -> tuple[str, Any]:
    """The last linear or convolutional layer of `model`, or of its module `below`, and its name."""
    for name, module in reversed(list(model.get_submodule(below).named_modules(prefix=below))):
        if isinstance(module, nn.Linear | nn.Conv2d):
            return name, module
    raise ValueError(f"{below or type(model).__name__} has no linear or convolutional layer that gives the logits")


def find_source_head(state: State, model: nn.Module, heads: Sequence[str]) -> Head | None:
    """The linear layer that the weights of `state` end in: that of the model's own head, or the one layer that the
    model did not take and that has as many inputs."""
    try:
        name, layer = output_layer(model, heads[-1])
    except ValueError:
        return None
    own, inputs = model.state_dict(), layer.weight[0].numel()
    linear = {key for key, w in state.items() if key.endswith("weight") and w.dim() > 1 and w[0].numel() == inputs}
    beside = [key for key in linear if key not in own]
    key = f"{name}.weight" if f"{name}.weight" in linear else beside[0] if len(beside) == 1 else None
    if key is None:
        return None
    bias = state.get(f"{key.removesuffix('weight')}bias")
    return state[key].flatten(1).clone(), None if bias is None else bias.clone()


def check_outside_head(model: nn.Module, source: str, new: dict, left: dict, heads: Sequence[str]) -> None:
    """Raises ValueError, with the names, where weights and model differ by more than a head.

    new, left: shapes by name, of the model's tensors that the weights lack and of those in the weights without a place.
    """
    modules = dict(model.named_modules())
    inside = [key for key in new if not is_below_any(key, heads)]
    outside = []
    for key in left:
        parts = key.split(".")
        at = next(".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1) if ".".join(parts[:n]) in modules)
        # beside the head, or in what holds it, is where another head lies
        if (
            at
            and key not in new
            and not is_below_any(at, heads)
            and not any(is_below_any(head, [at]) for head in heads)
        ):
            outside.append(key)
    shapes = [f"{key} {tuple(left[key])}, the model's is {tuple(new[key])}" for key in inside if key in left]
    missing = [key for key in inside if key not in left]
    parts = {"missing": missing, "unknown": outside, "of another shape": shapes}
    said = [f"{what}: {join_names(names, 20)}" for what, names in parts.items() if names]
    if len(new) == len({*filter(is_counted, model.state_dict())}):
        said.insert(0, f"nothing in it matches; it holds: {join_names([*left]) or 'no tensor'}")
    if said:
        raise ValueError(f"{source} does not fit {type(model).__name__} outside its head; {'; '.join(said)}")


def is_below_any(name: str, modules: Collection[str]) -> bool:
    return any(is_within(name, module) for module in modules)


def is_counted(key: str) -> bool:
    """BatchNorm's counter of batches came later than some published files, and nothing reads it."""
    return not key.endswith("num_batches_tracked")


def read_weights(places: Sequence[WeightsFile]) -> tuple[dict[str, Any], str]:
    """What is in these files together, and their SHA-256. Raises ValueError for what is damaged or holds code, and for
    a run's weights that are not what was sealed."""
    saved: dict[str, Any] = {}
    digests = []
    for found in places:
        file = found.file
        with open(file, "rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
        if found.sealed not in (None, digests[-1]):
            raise ValueError(
                f"{file} has changed since its run was done; the same command with again=true runs it anew"
            )
        content = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file} holds a {type(content).__name__}, not a state dict")
        saved |= content
    return saved, digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_safetensors(file: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no sound safetensors file ({error}); fetch it again") from error


def read_torch(file: Path) -> Any:
    with open(file, "rb") as opened:
        zipped = opened.read(2) == b"PK"  # not so before torch 1.6
    try:
        if zipped:
            # torch.load takes a flipped bit for a weight; the archive's own CRC does not
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{file} is damaged: {damaged} has changed since it was written; fetch it again")
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, LookupError) as error:
        # bytes that are no pickle: empty, or read as instructions that are none, or want what was not there
        if not re.search("unsupported (global|class)|call reduce", str(error), re.IGNORECASE):
            raise ValueError(f"{file} is no file of weights, or damaged; fetch it again") from error
        raise ValueError(
            f"{file} holds more than tensors: opening it would run code that it names, which lab never does. If you "
            "trust who made it, load it once yourself with torch.load(..., weights_only=False) and write its state "
            "dict by safetensors.torch.save_file; then give that file"
        ) from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"{file} is damaged ({str(error).splitlines()[0]}); fetch it again") from error


# what state dicts lie in: our checkpoints' keys first
STATE_CONTAINERS = ("scored", "run", "state_dict", "model", "model_state_dict", "net")


def unwrap_state(saved: dict[str, Any]) -> State:
    """The state dict in what was saved, without the prefixes of DataParallel and torch.compile, and with what LoRA or
    DoRA changed added to the weights."""
    for name in STATE_CONTAINERS:
        if isinstance(saved.get(name), dict):
            return unwrap_state(saved[name])
    state = {
        key.removeprefix("_orig_mod.").removeprefix("module."): value
        for key, value in saved.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if any("parametrizations." in key for key in state):
        from lab.models.low_rank import merge_low_rank

        return merge_low_rank(state)
    return state
