"""Parameter groups: what a fine-tuning strategy gives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn


class Groups(list[dict[str, Any]]):
    """Parameter groups as torch's optimizers take them, and beside them what a method has to say while they train.

    A group may hold, beside `params`: `name`; `lr_scale`, a multiplier on the optimizer's learning rate; `from_epoch`,
    until which it is frozen.  say: as an option of `regularize`; None where the groups are all there is to a method.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], say: Any = None):
        super().__init__(groups)
        self.say = say


def train_only(model: nn.Module, named: Mapping[str, Iterable[nn.Parameter]], **options: Any) -> list[dict[str, Any]]:
    """A group of each name, with the options; the model's other parameters are frozen.

    A parameter named twice belongs to the later group. Groups without parameters are left out.
    """
    owner = {id(p): name for name, parameters in named.items() for p in parameters}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in named}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in owner)
        if id(parameter) in owner:
            groups[owner[id(parameter)]].append(parameter)
    return [{"name": name, "params": params, **options} for name, params in groups.items() if params]


def group_rows(groups: Sequence[Mapping[str, Any]], total: int) -> list[dict[str, Any]]:
    """A row for each of an optimizer's groups: name, tensors, parameters, share (of `total`), lr, from_epoch."""
    rows = []
    for number, group in enumerate(groups):
        parameters = sum(p.numel() for p in group["params"])
        rows.append(
            {
                "name": str(group.get("name", number)),
                "tensors": len(group["params"]),
                "parameters": parameters,
                "share": parameters / total,
                "lr": float(group.get("initial_lr", group["lr"])),
                "from_epoch": float(group.get("from_epoch", 0)),
            }
        )
    return rows


def format_groups(rows: Sequence[Mapping[str, Any]], total: int, epochs: float) -> list[str]:
    """The rows of `described` as lines: what is trained in all, then each group.  epochs: of the run."""
    trained = sum(row["parameters"] for row in rows)
    lines = [f"trains {trained:,} of {total:,} parameters ({trained / total:.2%})"]
    names = max(len(row["name"]) for row in rows)
    counts = max(len(f"{row['parameters']:,}") for row in rows)
    for row in rows:
        later = f"  from epoch {row['from_epoch']:g}" if row["from_epoch"] else ""
        later += f", but the run ends with epoch {epochs:g}" if row["from_epoch"] >= epochs else ""
        lines.append(
            f"  {row['name']:<{names}}  {row['parameters']:>{counts},}  {row['share']:>7.2%}  lr {row['lr']:.3g}{later}"
        )
    return lines
