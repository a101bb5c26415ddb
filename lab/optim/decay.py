"""Weight decay only for matrices, not for biases, scales and the parameters of normalisations.

Source: He et al. 2019, arXiv:1812.01187, sec. 3.1, "no bias decay", after Jia et al. 2018, arXiv:1807.11205. For class
tokens and position embeddings, the recipes of ViT and Swin in timm and torchvision.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lab.models.blocks import NORMALISATIONS
from lab.models.low_rank import PARAMETRIZED_KEY, LoRA, is_transposed

# modules whose weights are matrices and filters, whatever their shape: a linear layer of one output, a depthwise filter
MATRIX_MODULES = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    LoRA,
)
TOKEN = re.compile(r"(.*_)?tokens?")  # cls_token, mask_token, register_tokens
POSITION = re.compile(
    r"wpe|rel_embeddings|(.*_)?pos(itions?|itional)?(_.*)?"
)  # pos_embed, rel_pos_h, position_embeddings


def no_decay_groups(groups: Sequence[dict[str, Any]], model: nn.Module | None = None) -> list[dict[str, Any]]:
    """Split each parameter group in two that keep its options: one of the tensors with weight decay, and one of the
    others, without, named `name (no decay)`.

    Weight decay is spared to biases, also tables of relative position biases; scales and shifts of normalisations;
    layer scales, logit scales, temperatures and gates, whatever the number of their dimensions; class tokens and other
    learned tokens; absolute and relative position embeddings; and what the model's own `no_weight_decay()` names, as
    models of timm have it. Weights of linear layers and convolutions, word embeddings and LoRA's factors keep it.
    model: model that has the parameters, whose names and modules tell what they are; without it, or for a parameter
        that it does not have, the shape tells: one long dimension at most, and not that of a matrix.
    """
    spared = spared_parameters(model) if model else set()
    known = {id(p) for p in model.parameters()} if model else set()
    split: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        is_spared = [id(p) in spared if id(p) in known else p.dim() != 2 and is_vector(p) for p in group["params"]]
        others = [p for p, spare in zip(group["params"], is_spared, strict=True) if spare]
        matrices = [p for p, spare in zip(group["params"], is_spared, strict=True) if not spare]
        name = group.get("name", number)
        if matrices or not others:
            split.append({**group, "params": matrices})
        if others:
            split.append({**group, "params": others, "name": f"{name} (no decay)", "weight_decay": 0.0})
    return split


def spared_parameters(model: nn.Module) -> set[int]:
    """The ids of the model's parameters without weight decay."""
    modules = dict(model.named_modules())
    exceptions = own_exceptions(modules)
    spared = set()
    for key, parameter in model.named_parameters():
        match = PARAMETRIZED_KEY.fullmatch(key)
        name = match["module"] + match["tensor"] if match and match["part"] == "original" else key
        owner, _, last = name.rpartition(".")
        is_exception = any(fnmatchcase(name, pattern) for pattern in exceptions)
        if is_exception or is_spared(parameter, last, modules[owner], owner.rpartition(".")[2]):
            spared.add(id(parameter))
    return spared


def own_exceptions(modules: dict[str, nn.Module]) -> list[str]:
    """The names, or patterns of names, that the modules' own `no_weight_decay()` give."""
    patterns = []
    for name, module in modules.items():
        own: Callable[[], Iterable[str]] | None = getattr(module, "no_weight_decay", None)
        patterns += [f"{name}.{pattern}" if name else pattern for pattern in (own() if callable(own) else ())]
    return patterns


def is_spared(parameter: Tensor, name: str, module: nn.Module, module_name: str) -> bool:
    """Whether a parameter has no weight decay.

    name: name of the parameter in its module.  module_name: name of the module in its parent.
    """
    if parameter.dim() < 2 or "bias" in name or getattr(parameter, "_no_weight_decay", False):  # Mamba's mark
        return True
    if isinstance(module, NORMALISATIONS):
        return True
    if isinstance(module, nn.Embedding):
        return POSITION.fullmatch(module_name) is not None or "bias" in module_name
    if isinstance(module, MATRIX_MODULES) or is_transposed(module):
        return False
    is_named_so = TOKEN.fullmatch(name) or POSITION.fullmatch(name)
    return is_named_so is not None or (is_vector(parameter) and (name, parameter.dim()) != ("weight", 2))


def is_vector(parameter: Tensor) -> bool:
    """Whether a tensor has one dimension of more than one element at most: (C,), (C, 1, 1), (1, 1, C)."""
    return sum(length > 1 for length in parameter.shape) <= 1
