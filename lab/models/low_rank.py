"""Low-rank changes of weights: the modules of LoRA and DoRA, and their use as parametrizations of a model."""

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization


class LoRA(nn.Module):
    """From a weight W to W + scale * up @ down; up is the paper's B, (out, rank), down its A, (rank, in).

    The weight of a convolution is treated as the matrix (out, in / groups * kernel): down convolves to `rank` channels,
    up mixes them. As in the authors' code, A is initialised Kaiming-uniform and B to zero; of an embedding, A is zero
    and B normal.
    transposed: whether W is (in, out).  embedding: whether W is the weight of an embedding.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float, transposed: bool = False, embedding: bool = False):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} is not at least 1")
        if alpha <= 0:
            raise ValueError(f"alpha {alpha} is not positive; the change would stay at zero, or increase the loss")
        rows, columns = weight.shape[0], weight[0].numel()
        fan_in, fan_out = (rows, columns) if transposed else (columns, rows)
        self.down = nn.Parameter(weight.new_zeros(rank, fan_in))
        self.up = nn.Parameter(weight.new_zeros(fan_out, rank))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))
        # a buffer that exists only if true, so that the keys of a state dict tell, and reading it never waits for a GPU
        self.register_buffer("transposed", torch.tensor(True) if transposed else None)
        if embedding:
            nn.init.normal_(self.up)
        else:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return add_low_rank(weight, self.down, self.up, self.scale, self.transposed is not None)


def add_low_rank(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor, transposed: bool) -> Tensor:
    change = up @ down
    # the weight comes first, as the sum takes the memory format of the first operand
    return weight + scale * (change.T if transposed else change).reshape(weight.shape)


class Magnitude(nn.Module):
    """From a weight V to magnitude * V / |V|, with a norm and a magnitude for each output.

    transposed: whether V is (in, out).
    """

    def __init__(self, weight: Tensor, transposed: bool = False):
        super().__init__()
        self.transposed = transposed
        self.magnitude = nn.Parameter(output_norms(weight, transposed).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        return rescale_directions(weight, self.magnitude, self.transposed)


def rescale_directions(weight: Tensor, magnitude: Tensor, transposed: bool) -> Tensor:
    norm = output_norms(weight.detach(), transposed)
    # a row of zeros has no direction; it stays zero instead of becoming NaN
    return weight * (magnitude.view_as(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny))


def output_norms(weight: Tensor, transposed: bool) -> Tensor:
    """The norm of the weights of each output: (out, 1, ...), or (1, out) if the weight is (in, out)."""
    return torch.linalg.vector_norm(weight, dim=0 if transposed else list(range(1, weight.dim())), keepdim=True)


# for each kind of module, a name pattern of the tensors that LoRA can adapt
ADAPTABLE_TENSORS = (
    ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding), "weight"),
    ((nn.MultiheadAttention,), "*proj_weight"),
    ((nn.RNNBase, nn.RNNCellBase), "weight_*"),
)


def adaptable_tensors(module: nn.Module) -> list[str]:
    """The names of a module's own tensors that LoRA can adapt, except for those that are parametrized already."""
    patterns = [pattern for kinds, pattern in ADAPTABLE_TENSORS if isinstance(module, kinds)]
    if not patterns and is_transposed(module):
        patterns = ["weight"]
    own = [name for name, p in module.named_parameters(recurse=False) if p.is_floating_point()]
    return [name for name in own if any(fnmatchcase(name, pattern) for pattern in patterns)]


def is_transposed(module: nn.Module) -> bool:
    """Whether a module's weight is (in, out): an embedding, or Hugging Face's Conv1D, which is a linear layer."""
    classes = [f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__]
    return isinstance(module, nn.Embedding) or "transformers.pytorch_utils.Conv1D" in classes


def adapt_tensor(module: nn.Module, name: str, change: nn.Module) -> None:
    """Parametrize the tensor of that name by `change`, a LoRA or a Magnitude."""
    register_parametrization(module, name, change)
    if isinstance(module, nn.RNNBase):
        for attribute, replacement in UNCACHED_WEIGHTS.items():
            # register_parametrization has given this module a class of its own
            setattr(type(module), attribute, replacement)
        vars(module).pop("_flat_weights", None)


# a recurrent layer caches the list of tensors that it computes with; these attributes make the list at each access
UNCACHED_WEIGHTS = {
    "_flat_weights": property(
        lambda module: [getattr(module, name) for name in module._flat_weights_names], lambda module, value: None
    ),
    **dict.fromkeys(("_init_flat_weights", "_update_flat_weights", "flatten_parameters"), lambda module: None),
}


def adapted_tensors(model: nn.Module) -> list[tuple[str, nn.Module, str, LoRA]]:
    """Every tensor that LoRA adapts: the module's name, the module, the tensor's name, and the LoRA."""
    return [
        (name, module, tensor, changes[0])
        for name, module in model.named_modules()
        if is_parametrized(module)
        for tensor, changes in module.parametrizations.items()  # type: ignore[union-attr,operator]
        if isinstance(changes[0], LoRA)
    ]


# the key of a parametrized tensor in a state dict: `layer.parametrizations.weight.original`, `....weight.0.down`
PARAMETRIZED_KEY = re.compile(r"(?P<parts>(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>\w+))\.(?P<part>.+)")


def merge_low_rank(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a plain model that is equivalent to the model with LoRA or DoRA that has this state.

    Other parametrizations are unchanged.
    """
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        match = PARAMETRIZED_KEY.fullmatch(key)
        if match is None or f"{(parts := match['parts'])}.0.down" not in state:
            plain[key] = value
        elif match["part"] == "original":
            down, up, scale = (state[f"{parts}.0.{name}"] for name in ("down", "up", "scale"))
            transposed = f"{parts}.0.transposed" in state
            weight = add_low_rank(value, down, up, scale, transposed)
            if f"{parts}.1.magnitude" in state:
                weight = rescale_directions(weight, state[f"{parts}.1.magnitude"], transposed)
            plain[match["module"] + match["tensor"]] = weight
    return plain
