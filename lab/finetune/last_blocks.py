"""Train the head and the last blocks of a model, freeze what comes before; none but the head is a linear probe.

Sources: Yosinski et al. 2014, arXiv:1411.1792; for the probe, Alain & Bengio 2017, arXiv:1610.01644.
"""

from torch import nn


def linear_probe(model: nn.Module, head: str | None = None) -> list[dict]:
    """Only the head: the submodule of that name, or the model's last block."""
    return last_blocks(model, num_blocks=0, head=head)


def last_blocks(model: nn.Module, num_blocks: int, head: str | None = None) -> list[dict]:
    """One group: the head's parameters and those of the `num_blocks` blocks before it. The others are frozen.

    Normalisation layers that are frozen keep their running statistics too (see lab.train.loop.training_mode).
    Raises ValueError that lists the blocks where there are not so many, or no head of that name.
    """
    names = block_names(model)
    head = head or names[-1]
    if head not in dict(model.named_modules()):
        raise ValueError(f"{type(model).__name__} has no module {head!r}; its blocks are: {', '.join(names)}")
    body = [name for name in names if not f"{name}.".startswith(f"{head}.")]
    if not 0 <= num_blocks <= len(body):
        raise ValueError(f"num_blocks {num_blocks} is not from 0 to {len(body)}; before {head}: {', '.join(body)}")
    chosen = {id(p) for name in [*body[len(body) - num_blocks :], head] for p in model.get_submodule(name).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [{"params": [p for p in model.parameters() if p.requires_grad]}]


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
