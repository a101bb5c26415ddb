"""What has a say beside the loss."""

import torch
from torch import nn

from lab.metrics import Monitor
from lab.regularize.early_stop import EarlyStop
from lab.regularize.ema import EMA


def test_ema_is_the_average_of_its_definition():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.9)
    reference = model[0].weight.detach().clone()
    for n in range(1, 40):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
            model[1].running_mean.add_(1)
        ema.step(model)
        d = min(0.9, (1 + n) / (10 + n))
        reference = d * reference + (1 - d) * model[0].weight.detach()
    averaged = ema.scored(model)
    assert torch.allclose(averaged[0].weight, reference, atol=1e-5)
    assert torch.equal(averaged[1].running_mean, model[1].running_mean)
    assert not any(p.requires_grad for p in averaged.parameters())


def test_early_stop_waits_for_its_patience_and_starts_over_at_each_improvement():
    stop = EarlyStop(Monitor("val/accuracy", "max"), patience=2)
    said = []
    for accuracy in (0.5, 0.4, 0.6, 0.6, 0.59):
        stop.seen({"val/accuracy": accuracy})
        said.append(stop.stopped)
    assert said == [False, False, False, False, True]
    again = EarlyStop(Monitor("val/accuracy", "max"), patience=2)
    again.load_state_dict(stop.state_dict())
    assert again.stopped


def test_early_stop_can_wait_for_a_smaller_loss():
    stop = EarlyStop(Monitor("val/cross_entropy", "min"), patience=1, min_delta=0.1)
    for loss, stopped in ((1.0, False), (0.8, False), (0.75, True)):
        stop.seen({"val/cross_entropy": loss})
        assert stop.stopped is stopped
