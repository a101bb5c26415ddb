"""A multilayer perceptron on flattened input."""

import math
from itertools import pairwise

from torch import Tensor, nn

from lab.models.weights import load_weights


class MLP(nn.Module):
    """Inputs (B, *shape) to logits (B, num_classes): linear layers with ReLU and, if its rate is above 0, dropout
    between them.

    hidden: widths of the hidden layers; an empty list makes a linear classifier.  weights: file of a state dict to
    start from; None for a random start.
    """

    def __init__(
        self,
        shape: list[int],
        num_classes: int,
        hidden: list[int],
        dropout: float = 0.0,
        weights: str | None = None,
    ):
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise([math.prod(shape), *hidden]):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear([math.prod(shape), *hidden][-1], num_classes)
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))
