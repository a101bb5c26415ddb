"""The parts of a model by name: its blocks, its head, its normalisations."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lab.text import suggest


def block_names(model: nn.Module) -> list[str]:
    """The names of a model's blocks, in order: the modules that its author stacked, such as residual blocks.

    The search descends into containers, into modules that hold a stack (two or more modules of one class in a
    container), and into modules that wrap the whole model. All other modules that it reaches are blocks. A model
    without submodules is one block, named `""` as in torch.
    """
    names: list[str] = []

    def visit(name: str, module: nn.Module, opened: bool) -> None:
        if type(module) in CONTAINERS or opened:
            children = children_with_parameters(module)
            for child_name, child in children.items():
                path = f"{name}.{child_name}" if name else child_name
                is_only_child = len(children) == 1 and len(children_with_parameters(child)) > 1
                is_wrapper = type(module) not in CONTAINERS and (is_only_child or holds_stack(child))
                visit(path, child, opened=is_wrapper)
        else:
            names.append(name)

    visit("", model, opened=True)
    return names or [""]


# exactly these classes, as a subclass is a module with a meaning of its own
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def children_with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}


def holds_stack(module: nn.Module) -> bool:
    for container in module.modules():
        if type(container) in CONTAINERS:
            kinds = [type(child) for child in container.children() if any(True for _ in child.children())]
            if len(kinds) != len(set(kinds)):
                return True
    return False


def block_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of each block by its name, in order. Every parameter of the model occurs once.

    Parameters outside of all blocks (position embeddings, class tokens) belong to the first block.
    Parameters that two blocks share belong to the earlier block.
    """
    by_block = {name: list(model.get_submodule(name).parameters()) for name in block_names(model)}
    inside = {id(p) for parameters in by_block.values() for p in parameters}
    first = next(iter(by_block))
    by_block[first] = [*(p for p in model.parameters() if id(p) not in inside), *by_block[first]]
    seen: set[int] = set()
    for name, parameters in by_block.items():
        by_block[name] = [p for p in parameters if not (id(p) in seen or seen.add(id(p)))]
    return by_block


def head_name(model: nn.Module, head: str | None = None) -> str:
    """The name of the model's head.

    head: name to check; None for the `head_name` of the model, or the classifier that its configuration names, as in
        timm, or else for the model's last block.
    Raises ValueError that lists the blocks if no module has that name.
    """
    if head is not None:
        if not head:
            raise ValueError("the name of the head is empty; give null for the model's last block")
        return check_module_name(model, head)
    if isinstance(own := getattr(model, "head_name", None), str):
        return own
    configuration = getattr(model, "pretrained_cfg", None)
    classifier = configuration.get("classifier") if isinstance(configuration, dict) else None
    names = (name for name, _ in model.named_modules() if name and name == classifier)
    return next(names, block_names(model)[-1])


def check_module_name(model: nn.Module, name: str) -> str:
    """`name`, if a module has it. Raises ValueError that lists the blocks otherwise."""
    names = [name for name, _ in model.named_modules()]
    if name not in names:
        nearest = suggest_or_nothing(name, names)
        raise ValueError(
            f"{type(model).__name__} has no module {name!r}; {nearest}its blocks are: {', '.join(block_names(model))}"
        )
    return name


def body_and_head(
    model: nn.Module, head: str | None = None
) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """The parameters of each block outside the head, in order, and those of the head. Every parameter occurs once.

    head: name of a submodule, as in head_name.
    """
    top = list(model.get_submodule(head_name(model, head)).parameters())
    in_head = {id(p) for p in top}
    by_block = block_parameters(model)
    body = {name: [p for p in parameters if id(p) not in in_head] for name, parameters in by_block.items()}
    return {name: parameters for name, parameters in body.items() if parameters}, top


def merge_normalisations(
    model: nn.Module, head: str | None = None
) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """As body_and_head, but a normalisation between blocks (a ResNet's first, a transformer's last) is not a block
    itself: its parameters belong to the block before it."""
    body, top = body_and_head(model, head)
    merged: dict[str, list[nn.Parameter]] = {}
    for name, parameters in body.items():
        before = next(reversed(merged), None)
        if before is not None and is_normalisation(model.get_submodule(name)):
            merged[before] = [*merged[before], *parameters]
        else:
            merged[name] = parameters
    return merged, top


def repeated_blocks(model: nn.Module, head: str | None = None) -> list[str]:
    """The names of the blocks that the model repeats, without the head.

    They are the blocks from the first to the last of the most frequent class, including others in between (such as a
    ConvNeXt's downsampling). Empty if no class occurs twice.
    """
    top = head_name(model, head)
    body = [name for name in block_names(model) if not is_within(name, top)]
    modules = [model.get_submodule(name) for name in body]
    kinds = [type(module) for module in modules]
    # classes with submodules come first, as a GPT of two layers has equally many embeddings
    has_children = {type(module): any(True for _ in module.children()) for module in modules}
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1}, key=kinds.index)
    if not repeated:
        return []
    kind = max(repeated, key=lambda kind: (has_children[kind], kinds.count(kind)))
    return body[kinds.index(kind) : len(kinds) - kinds[::-1].index(kind)]


def is_within(name: str, module: str) -> bool:
    """Whether `name` is `module` or the name of a module or tensor inside it."""
    return not module or f"{name}.".startswith(f"{module}.")


def match_names(names: Sequence[str], patterns: Sequence[str], noun: str) -> list[str]:
    """The names that at least one pattern (`layer3.*`, `*.bias`) matches, in their order.

    noun: word for a name, for the message.
    Raises ValueError for a pattern that matches none, with the nearest name and all names.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            nearest = suggest_or_nothing(pattern.replace("*", ""), names)
            raise ValueError(f"{pattern!r} matches no {noun}; {nearest}there is: {', '.join(names) or 'none'}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def suggest_or_nothing(name: str, names: Sequence[str]) -> str:
    """`did you mean X? `, or an empty string if no name is similar."""
    nearest = suggest(name, names)
    return f"{nearest} " if nearest.startswith("did you mean") else ""


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation with a scale or a shift to train: one of torch's, or one of another library
    with `norm` in its class name."""
    own = list(module.parameters(recurse=False))
    is_named_so = "norm" in type(module).__name__.lower() and all(p.dim() <= 1 for p in own)
    return bool(own) and (is_named_so or isinstance(module, NORMALISATIONS))


NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
