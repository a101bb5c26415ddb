"""Regression: one number, or several, for each example."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.metrics.regression import score_regression
from lab.metrics.scores import Evaluation

Predictor = Callable[[Any], Tensor]
RegressionBatch = tuple[Any, Tensor]


class Regression:
    """Batches are pairs of inputs and targets, float (B,) or (B, K). The model gives (B, K), K = 1 for targets (B,).

    Where the data set has a `target_scale`, means and standard deviations of the K targets, the model predicts targets
    standardised by them; scores and predictions are in the targets' own units.
    """

    def __init__(self) -> None:
        self.mean, self.std = torch.zeros(1), torch.ones(1)

    def bind(self, data: Any) -> None:
        """Take the scale of the targets from the data set."""
        if scale := getattr(data, "target_scale", None):
            self.mean, self.std = map(torch.tensor, scale)

    def loss(self, model: Predictor, batch: RegressionBatch) -> Tensor:
        """The mean squared error of standardised targets, a scalar."""
        inputs, targets = batch
        std = self.std.to(targets.device)
        return F.mse_loss(self.outputs(model, inputs, targets) / std, targets / std)

    def score(self, model: Predictor, batches: Iterable[RegressionBatch]) -> Evaluation:
        """rmse, mse, mae, r2, pearson and spearman; of several targets, the means over them. Empty without batches."""
        pairs = [
            (self.outputs(model, inputs, targets).float().cpu(), targets.float().cpu()) for inputs, targets in batches
        ]
        if not pairs:
            return Evaluation({})
        outputs, targets = (torch.cat(part).numpy() for part in zip(*pairs, strict=True))
        return Evaluation(score_regression(outputs, targets), directions={"pearson": "max", "spearman": "max"})

    def predict(self, model: Predictor, inputs: Any) -> list[dict[str, Any]]:
        """The `value` of each example; of several, the `values`."""
        rows = self.in_units(model(inputs)).float().cpu().tolist()
        return [{"value": row[0]} if len(row) == 1 else {"values": row} for row in rows]

    def outputs(self, model: Predictor, inputs: Any, targets: Tensor) -> Tensor:
        """The model's outputs in the shape of the targets. Raises ValueError for any other number of them."""
        outputs = self.in_units(model(inputs))
        if outputs.numel() != targets.numel():
            raise ValueError(f"the model gives {tuple(outputs.shape)} for targets {tuple(targets.shape)}")
        return outputs.view_as(targets)

    def in_units(self, outputs: Tensor) -> Tensor:
        return outputs * self.std.to(outputs.device) + self.mean.to(outputs.device)
