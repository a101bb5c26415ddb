"""What a model is made of, by name: the blocks that its author stacked, its head, its normalisations."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lab.text import suggest


def block_names(model: nn.Module) -> list[str]:
    """The blocks that a model is a sequence of, in order, by name: what its author stacked, not the layers inside.

    Containers are opened, and modules around a stack (two or more modules of one kind in a container) or around all
    that there is as well; a member of a container that is none itself is a block. A model without parts is one block,
    `""`, as torch names it.
    """
    names: list[str] = []

    def visit(name: str, module: nn.Module, opened: bool) -> None:
        if type(module) in CONTAINERS or opened:
            parts = with_parameters(module)
            for child_name, child in parts.items():
                path = f"{name}.{child_name}" if name else child_name
                whole = len(parts) == 1 and len(with_parameters(child)) > 1
                visit(path, child, opened=type(module) not in CONTAINERS and (whole or holds_stack(child)))
        else:
            names.append(name)

    visit("", model, opened=True)
    return names or [""]


# these classes themselves: a subclass is a module of its author's own making
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}


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
    """The name of the head: `head` itself; None: the classifier that the model's configuration notes, as timm's do,
    or else its last block. Raises ValueError that lists the blocks where no module has that name."""
    if head is not None:
        if not head:
            raise ValueError("the head has no name; leave it null for the model's last block")
        return module_name(model, head)
    configuration = getattr(model, "pretrained_cfg", None)
    noted = configuration.get("classifier") if isinstance(configuration, dict) else None
    known = (name for name, _ in model.named_modules() if name and name == noted)
    return next(known, block_names(model)[-1])


def module_name(model: nn.Module, name: str) -> str:
    """`name`, that of a module. Raises ValueError that lists the blocks where none has it."""
    known = [known for known, _ in model.named_modules()]
    if name not in known:
        close = suggest_or_nothing(name, known)
        raise ValueError(
            f"{type(model).__name__} has no module {name!r}; {close}its blocks are: {', '.join(block_names(model))}"
        )
    return name


def body_and_head(
    model: nn.Module, head: str | None = None
) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """The parameters of each block without the head's, in order, and the head's: every parameter once.

    head: as for head_name.
    """
    top = list(model.get_submodule(head_name(model, head)).parameters())
    own = {id(p) for p in top}
    body = {name: [p for p in parameters if id(p) not in own] for name, parameters in blocks(model).items()}
    return {name: parameters for name, parameters in body.items() if parameters}, top


def merge_normalisations(
    model: nn.Module, head: str | None = None
) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """As body_and_head, but a block that is a normalisation (a ResNet's first, a transformer's last) belongs to the
    block before it: it is none that one would count."""
    body, top = body_and_head(model, head)
    whole: dict[str, list[nn.Parameter]] = {}
    for name, parameters in body.items():
        before = next(reversed(whole), None)
        if before is not None and is_normalisation(model.get_submodule(name)):
            whole[before] = [*whole[before], *parameters]
        else:
            whole[name] = parameters
    return whole, top


def repeated_blocks(model: nn.Module, head: str | None = None) -> list[str]:
    """The blocks that the model repeats, from the first to the last of the kind that it has most of, with what lies
    between (a ConvNeXt's downsampling); none where no kind comes twice. The head is not among them."""
    top = head_name(model, head)
    body = [name for name in block_names(model) if not is_within(name, top)]
    modules = [model.get_submodule(name) for name in body]
    kinds = [type(module) for module in modules]
    # those that are made of parts first: a GPT of two layers has as many embeddings
    built = {type(module): any(True for _ in module.children()) for module in modules}
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1}, key=kinds.index)
    if not repeated:
        return []
    kind = max(repeated, key=lambda kind: (built[kind], kinds.count(kind)))
    return body[kinds.index(kind) : len(kinds) - kinds[::-1].index(kind)]


def is_within(name: str, module: str) -> bool:
    """Whether `name` is that of `module` or of a part of it."""
    return not module or f"{name}.".startswith(f"{module}.")


def match_names(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """Those of `names` that a pattern (`layer3.*`, `*.bias`) matches, in their order.

    Raises ValueError for a pattern that matches none, with the nearest name and what there is.  what: they are.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = suggest_or_nothing(pattern.replace("*", ""), names)
            raise ValueError(f"{pattern!r} matches no {what}; {close}there is: {', '.join(names) or 'none'}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def suggest_or_nothing(name: str, known: Sequence[str]) -> str:
    """`did you mean X? `, or nothing where nothing is near."""
    close = suggest(name, known)
    return f"{close} " if close.startswith("did you mean") else ""


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation with a scale or a shift to train: one of torch's, or of a library's own
    making, which its name tells."""
    own = list(module.parameters(recurse=False))
    named = "norm" in type(module).__name__.lower() and all(p.dim() <= 1 for p in own)
    return bool(own) and (named or isinstance(module, NORMALISATIONS))


NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
