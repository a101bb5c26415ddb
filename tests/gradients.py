"""Gradients of the parts of a batch, compared with those of the whole."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lab.train.micro_batches import weighted_loss


def assert_parts_add_up(task: Any, model: nn.Module, batch: Any, parts: Iterable[tuple[Any, Any]]) -> None:
    """The weighted losses of the parts, each with its weight, have the gradient of the whole batch's loss. The model is
    in float64."""
    model.zero_grad()
    task.loss(model, batch).backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for part, weight in parts:
        weighted_loss(task, model, part, weight).backward()
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-9)
