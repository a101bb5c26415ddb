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
    """Batches are pairs of inputs and targets, float (B,) or (B, K). The model gives (B, K), K = 1 for targets (B,)."""

    def loss(self, model: Predictor, batch: RegressionBatch) -> Tensor:
        """The mean squared error, a scalar."""
        inputs, targets = batch
        return F.mse_loss(self.outputs(model, inputs, targets), targets)

    def score(self, model: Predictor, batches: Iterable[RegressionBatch]) -> Evaluation:
        """rmse, mae, r2, pearson and spearman; of several targets, the means over them. Empty without batches."""
        pairs = [
            (self.outputs(model, inputs, targets).float().cpu(), targets.float().cpu()) for inputs, targets in batches
        ]
        if not pairs:
            return Evaluation({})
        outputs, targets = (torch.cat(part).numpy() for part in zip(*pairs, strict=True))
        return Evaluation(score_regression(outputs, targets), directions={"pearson": "max", "spearman": "max"})

    def predict(self, model: Predictor, inputs: Any) -> list[dict[str, Any]]:
        """The `value` of each example; of several, the `values`."""
        rows = model(inputs).float().cpu().tolist()
        return [{"value": row[0]} if len(row) == 1 else {"values": row} for row in rows]

    def outputs(self, model: Predictor, inputs: Any, targets: Tensor) -> Tensor:
        """The model's outputs in the shape of the targets. Raises ValueError for any other number of them."""
        outputs = model(inputs)
        if outputs.numel() != targets.numel():
            raise ValueError(f"the model gives {tuple(outputs.shape)} for targets {tuple(targets.shape)}")
        return outputs.view_as(targets)
