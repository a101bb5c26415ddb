"""Loading of pretrained weights into a model, with a record of matched, new and left tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.models.blocks import head_name, is_within
from lab.models.depth import describe_depth
from lab.models.origin import Origin, SourceHead, origin_of, set_origin
from lab.models.state_files import State, read_weights, unwrap_state
from lab.models.tied import parameter_names, shared_with
from lab.text import join_names

Shapes = Mapping[str, Sequence[int]]


def load_weights(
    model: nn.Module,
    weights: str,
    heads: Sequence[str] | None = None,
    convert: Callable[[State], State] = lambda state: state,
) -> None:
    """Load a file of weights into `model`, in place, and set the model's origin.

    weights: path of the file.
    heads: names of modules whose tensors the file may lack or have in another shape; None for the model's last block.
    convert: function that renames and reshapes the file's state for the model.
    Raises FileNotFoundError, or ValueError that names the differences outside the heads.
    """
    file = Path(weights)
    if not file.is_file():
        kind = "a folder that holds no run" if file.is_dir() else "no file and no run"
        raise FileNotFoundError(
            f"no weights at {weights}; place the file there, or leave weights out to start at random. It is {kind}, "
            f"and {type(model).__name__} knows no weights by name"
        )
    contents, digest = read_weights([file])
    load_matching(model, convert(unwrap_state(contents)), weights, digest, heads)


def load_matching(model: nn.Module, state: State, source: str, digest: str, heads: Sequence[str] | None = None) -> None:
    """Load the tensors of `state` that match `model`, in place, and set the model's origin.

    source, digest: source and SHA-256 of the origin.  heads: as in `load_weights`, also for the errors raised.
    """
    heads = heads or [head_name(model)]
    own = model.state_dict()
    matching = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # a tied parameter has several names, of which the file may have only one
    loaded = {id(parameters[key]) for key in matching if key in parameters}
    check_tied(matching, model, source)
    new = [key for key in own if key not in matching and is_counted(key) and id(parameters.get(key)) not in loaded]
    left = [key for key in state if key not in matching and is_counted(key)]
    new_shapes, left_shapes = {key: own[key].shape for key in new}, {key: state[key].shape for key in left}
    check_outside_heads(model, source, new_shapes, left_shapes, heads)
    model.load_state_dict(matching, strict=False)
    matched = sum(map(is_counted, matching))
    source_head = find_source_head(state, model, heads)
    set_origin(model, Origin(source, digest, matched, tuple(new), tuple(left), source_head))


def check_tied(state: State, model: nn.Module, source: str) -> None:
    """Raises ValueError where `state` has different values for the names of one parameter of the model."""
    for names in parameter_names(model).values():
        first, *others = [name for name in names if name in state] or [""]
        for other in others:
            if not torch.equal(state[first], state[other]):
                raise ValueError(
                    f"{source} has different values for {first} and {other}, which are one tensor of "
                    f"{type(model).__name__}; start from weights of a model that ties them, or untie them in the model"
                )


def draw_head(model: nn.Module, heads: Sequence[str] | None = None) -> None:
    """Initialise the output layer again at random, in place, although weights were loaded for it.

    heads: names of modules with an output layer; None for the model's last block.
    Raises ValueError for a head without a linear or convolutional layer, or that shares a tensor with other modules.
    """
    drawn = []
    for head in heads or [head_name(model)]:
        name, layer = output_layer(model, head)
        if pairs := shared_with(model, name):
            inside, outside = pairs[0]
            raise ValueError(f"{inside} and {outside} are one tensor, so a new head would overwrite both")
        layer.reset_parameters()
        drawn += [f"{name}.{key}" for key in layer.state_dict()]
    if origin := origin_of(model):
        drawn = [name for name in drawn if name not in origin.new]
        new, left = (*origin.new, *drawn), (*origin.left, *drawn)
        set_origin(model, replace(origin, matched=origin.matched - len(drawn), new=new, left=left))


def output_layer(model: nn.Module, below: str = "") -> tuple[str, Any]:
    """The name of the last linear or convolutional layer of `model`, or of its module `below`, and the layer."""
    for name, module in reversed(list(model.get_submodule(below).named_modules(prefix=below))):
        if isinstance(module, nn.Linear | nn.Conv2d):
            return name, module
    raise ValueError(f"{below or type(model).__name__} has no linear or convolutional layer that gives the logits")


def find_source_head(state: State, model: nn.Module, heads: Sequence[str]) -> SourceHead | None:
    """The last linear layer of the weights in `state`: the layer named like the model's output layer, or else the only
    layer with equally many inputs that the model does not have."""
    try:
        name, layer = output_layer(model, heads[-1])
    except ValueError:
        return None
    own, num_inputs = model.state_dict(), layer.weight[0].numel()
    linear = {key for key, w in state.items() if key.endswith("weight") and w.dim() > 1 and w[0].numel() == num_inputs}
    unknown = [key for key in linear if key not in own]
    key = f"{name}.weight" if f"{name}.weight" in linear else unknown[0] if len(unknown) == 1 else None
    if key is None:
        return None
    bias = state.get(f"{key.removesuffix('weight')}bias")
    return SourceHead(state[key].flatten(1).clone(), None if bias is None else bias.clone())


def check_outside_heads(model: nn.Module, source: str, new: Shapes, left: Shapes, heads: Sequence[str]) -> None:
    """Raises ValueError with the names of the tensors in which weights and model differ outside the heads.

    new: shapes of the model's tensors that the weights lack or have in another shape.
    left: shapes of the weights' tensors that were not loaded.
    """
    modules, own = dict(model.named_modules()), [*filter(is_counted, model.state_dict())]
    outside = [key for key in new if not is_below_any(key, heads)]
    shapes = [f"{key} {tuple(left[key])}, the model's is {tuple(new[key])}" for key in outside if key in left]
    missing = [key for key in outside if key not in left]
    unknown = [key for key in left if key not in new and not may_be_other_head(key, modules, heads)]
    depth, explained = describe_depth(model, own, missing, unknown)
    missing, unknown = ([key for key in keys if key not in explained] for keys in (missing, unknown))
    differences = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    problems = [f"{kind}: {join_names(names, 20)}" for kind, names in differences.items() if names]
    if depth:
        problems.insert(0, depth)
    if len(new) == len(own):
        problems.insert(0, f"nothing in it matches; it holds: {join_names([*left]) or 'no tensor'}")
    if problems:
        raise ValueError(f"{source} does not fit {type(model).__name__} outside its head; {'; '.join(problems)}")


def may_be_other_head(key: str, modules: Mapping[str, nn.Module], heads: Sequence[str]) -> bool:
    """Whether a tensor of the weights may belong to a head that the model does not have.

    It may if the innermost of its parent modules that the model has is the whole model, lies in a head, or holds one.
    """
    parts = key.split(".")
    innermost = next(name for n in range(len(parts) - 1, -1, -1) if (name := ".".join(parts[:n])) in modules)
    return not innermost or is_below_any(innermost, heads) or any(is_within(head, innermost) for head in heads)


def is_below_any(name: str, modules: Sequence[str]) -> bool:
    return any(is_within(name, module) for module in modules)


def is_counted(key: str) -> bool:
    """False for BatchNorm's num_batches_tracked, which nothing reads and old published files lack; else True."""
    return not key.endswith("num_batches_tracked")
