"""The origin of a model's weights, stored as an attribute of the model, outside its state dict."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from lab.text import join_names


class SourceHead(NamedTuple):
    """The last linear layer of pretrained weights, for the K classes that they were trained on.

    weight: (K, D), D features.  bias: (K,), or None.
    """

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Origin:
    """The pretrained weights that a model starts from, and the tensors that matched and did not match.

    source: weights as the user gave them.
    sha256: hash of the file; for several files, the hash of their hashes.
    matched: number of tensors that were loaded.
    new: names of the model's tensors that were not loaded, because the file lacks them or has them in another shape.
    left: names of the file's tensors that were not loaded.
    source_head: last linear layer of the weights; None where there is none.
    BatchNorm's num_batches_tracked is not counted among these tensors.
    """

    source: str
    sha256: str
    matched: int
    new: tuple[str, ...]
    left: tuple[str, ...]
    source_head: SourceHead | None = None

    def __str__(self) -> str:
        text = f"{self.matched} of {self.matched + len(self.new)} tensors from {self.source}"
        for kind, names in (("new", self.new), ("left", self.left)):
            text += f"; {kind}: {join_names(names)}" if names else ""
        # the head was loaded too, but equally many classes need not be the same classes
        return text if self.new else f"{text}, the head too: new_head=true draws another"

    def summarize(self) -> dict[str, Any]:
        """All fields except the source head, as plain values for a manifest."""
        names = ("source", "sha256", "matched", "new", "left")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


ORIGIN = "lab_origin"  # attribute of a model; copies of the model keep it, its state dict does not contain it


def set_origin(model: nn.Module, origin: Origin) -> None:
    setattr(model, ORIGIN, origin)


def origin_of(model: nn.Module) -> Origin | None:
    """The origin of a model's pretrained weights; None for a random start."""
    return getattr(model, ORIGIN, None)


def new_parameters_of(model: nn.Module) -> set[str]:
    """The names of the parameters that the model's pretrained weights lack; empty for a random start."""
    origin = origin_of(model)
    return {name for name, _ in model.named_parameters() if origin and name in origin.new}
