"""What a model is made of, by name: the blocks that its author stacked, its head, its normalisations."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lab.names import nearest


def block_names(model: nn.Module) -> list[str]:
    """The blocks that a model is a sequence of, in order, by name: what its author stacked, not the layers inside.

    Containers are opened, and modules around a stack (two or more modules of one kind in a container) as well; a
    member of a container that is none itself is a block.
    """
    names: list[str] = []

    def visit(name: str, module: nn.Module, opened: bool) -> None:
        if not any(True for _ in module.parameters()):
            return
        if type(module) in CONTAINERS or opened:
            for child_name, child in module.named_children():
                path = f"{name}.{child_name}" if name else child_name
                visit(path, child, opened=type(module) not in CONTAINERS and holds_stack(child))
        else:
            names.append(name)

    visit("", model, opened=True)
    return names


# these classes themselves: a subclass is a module of its author's own making
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def holds_stack(module: nn.Module) -> bool:
    for container in module.modules():
        if type(container) in CONTAINERS:
            kinds = [type(child) for child in container.children() if any(True for _ in child.children())]
            if len(kinds) != len(set(kinds)):
                return True
    return False


def blocks(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every parameter, by the block that it lies in, in order. Those outside of all blocks (position embeddings, class
    tokens) belong to the first block, those that two blocks share to the earlier one."""
    named = {name: list(model.get_submodule(name).parameters()) for name in block_names(model)}
    inside = {id(p) for parameters in named.values() for p in parameters}
    first = next(iter(named))
    named[first] = [*(p for p in model.parameters() if id(p) not in inside), *named[first]]
    seen: set[int] = set()
    for name, parameters in named.items():
        named[name] = [p for p in parameters if not (id(p) in seen or seen.add(id(p)))]
    return named


def head_name(model: nn.Module, head: str | None = None) -> str:
    """The name of the head: `head` itself, or the model's last block. Raises ValueError that lists the blocks where no
    module has that name."""
    names = block_names(model)
    if head is None:
        return names[-1]
    if head not in dict(model.named_modules()):
        raise ValueError(f"{type(model).__name__} has no module {head!r}; its blocks are: {', '.join(names)}")
    return head


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """Those of `names` that a pattern (`layer3.*`, `*.bias`) matches, in their order.

    Raises ValueError for a pattern that matches none, with the nearest name and what there is.  what: they are.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern.replace("*", ""), names)
            raise ValueError(f"{pattern!r} matches no {what}; {close} There is: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation of torch's, or of a library's own making by its name, with a scale or a
    shift to train."""
    own = list(module.parameters(recurse=False))
    named = isinstance(module, NORMALISATIONS) or "norm" in type(module).__name__.lower()
    return named and bool(own) and all(p.dim() <= 1 for p in own)


NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
