"""Parameter groups, the result of a fine-tuning strategy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

ParameterGroups = list[dict[str, Any]]


@dataclass(frozen=True)
class Groups:
    """Parameter groups, and a regularizer that belongs to them. A strategy without one may return a plain list.

    groups: parameter groups as torch's optimizers take them. Besides `params`, a group may hold `name`; `lr_scale`, a
        multiplier on the optimizer's learning rate; and `from_epoch`, the epoch until which it is frozen.
    regularizer: object like those of the config group `regularize`, or None.
    """

    groups: ParameterGroups
    regularizer: Any = None

    @classmethod
    def of(cls, result: "ParameterGroups | Groups") -> "Groups":
        """The result of a strategy as Groups, whether it is that already or a plain list."""
        return result if isinstance(result, Groups) else cls(result)


def train_only(model: nn.Module, parameters: Mapping[str, Iterable[nn.Parameter]], **options: Any) -> ParameterGroups:
    """One group for each name, with the options; the model's other parameters are frozen.

    parameters: parameters of each group by its name. A parameter under two names belongs to the later group. Groups
        without parameters are left out.
    options: further keys of every group.
    """
    owner = {id(p): name for name, members in parameters.items() for p in members}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in owner)
        if id(parameter) in owner:
            groups[owner[id(parameter)]].append(parameter)
    return [{"name": name, "params": params, **options} for name, params in groups.items() if params]


def group_rows(groups: Sequence[Mapping[str, Any]], total: int) -> list[dict[str, Any]]:
    """A row for each of an optimizer's groups: name, tensors, parameters, share (of `total`), lr, from_epoch.

    total: number of parameters of the model.
    """
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
    """The rows of `group_rows` as lines: the number of trained parameters, then a line for each group.

    total: number of parameters of the model.  epochs: length of the run.
    """
    trained = sum(row["parameters"] for row in rows)
    lines = [f"trains {trained:,} of {total:,} parameters ({trained / total:.2%})"]
    name_width = max(len(row["name"]) for row in rows)
    count_width = max(len(f"{row['parameters']:,}") for row in rows)
    for row in rows:
        phase = f"  from epoch {row['from_epoch']:g}" if row["from_epoch"] else ""
        phase += f", but the run ends with epoch {epochs:g}" if row["from_epoch"] >= epochs else ""
        count = f"{row['parameters']:>{count_width},}"
        lines.append(f"  {row['name']:<{name_width}}  {count}  {row['share']:>7.2%}  lr {row['lr']:.3g}{phase}")
    return lines
