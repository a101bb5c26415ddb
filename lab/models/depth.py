"""Differences in the number of blocks between weights and a model."""

import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

NUMBERED = re.compile(r"(.*?)(\d+)")  # `3`, `encoder_layer_3`
DEPTH_OPTION = re.compile(r"(^|_)(blocks?|layers?|depth)(_|$)")
CONFIG_KEYS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")  # of Hugging Face's configurations

Stack = tuple[str, str]  # the module that holds numbered blocks, and what their names begin with


def describe_depth(
    model: nn.Module, own: Sequence[str], missing: Sequence[str], unknown: Sequence[str]
) -> tuple[str, set[str]]:
    """The difference in the number of blocks, with what to type, and the tensors that it explains; an empty text where
    there is none.

    own: names of the model's tensors.  missing: those that the weights lack.  unknown: names of tensors that the model
        lacks.
    """
    absent = set(missing)
    ours, theirs = find_stacks(own), find_stacks([*(key for key in own if key not in absent), *unknown])
    differing = [stack for stack in ours if theirs.get(stack, ours[stack]) != ours[stack]]
    only_ours = {stack: ours[stack] - theirs[stack] for stack in differing}
    only_theirs = {stack: theirs[stack] - ours[stack] for stack in differing}
    explained = {key for key in missing if is_in_blocks(key, only_ours)}
    explained |= {key for key in unknown if is_in_blocks(key, only_theirs)}
    if not explained:
        return "", set()
    by_counts: dict[tuple[int, int], list[str]] = defaultdict(list)
    for stack in differing:
        by_counts[len(theirs[stack]), len(ours[stack])].append(stack[0] or stack[1])
    counts = ", ".join(
        f"{number} blocks in {', '.join(names)} where the model has {mine}"
        for (number, mine), names in by_counts.items()
    )
    return f"it is of another depth: {counts}; {suggest_depth(model, {number for number, _ in by_counts})}", explained


def find_stacks(keys: Iterable[str]) -> dict[Stack, set[int]]:
    """The numbers of the blocks of each stack. A block holds modules with tensors, which a single layer does not."""
    stacks: dict[Stack, set[int]] = defaultdict(set)
    for key in keys:
        parts = key.split(".")
        for place, part in enumerate(parts[:-2]):
            if match := NUMBERED.fullmatch(part):
                stacks[".".join(parts[:place]), match[1]].add(int(match[2]))
    return stacks


def is_in_blocks(key: str, blocks: Mapping[Stack, set[int]]) -> bool:
    """Whether a tensor lies in one of these blocks."""
    return any(numbers & blocks.get(stack, set()) for stack, numbers in find_stacks([key]).items())


def suggest_depth(model: nn.Module, counts: Collection[int]) -> str:
    """What to type for a model with as many blocks as the weights.  counts: different numbers of blocks in a stack."""
    number = next(iter(counts)) if len(counts) == 1 else None
    inner = getattr(model, "model", model)
    config: Any = getattr(inner, "config", None)
    library = type(inner).__module__.partition(".")[0]
    if number and library == "transformers":
        if keys := [key for key in CONFIG_KEYS if hasattr(config, key)]:
            return f"give model.config={{{keys[0]}:{number}}}"
    elif library in ("torchvision", "timm"):
        return "give the model.name= of that depth"
    elif number:
        options = [name for name in inspect.signature(type(model)).parameters if DEPTH_OPTION.search(name)]
        if len(options) == 1:
            return f"give model.{options[0]}={number}"
    return "give the model as many"
